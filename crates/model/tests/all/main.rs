//! Tests of `model` through its public items, in one program: each would link libtorch anew.

#[cfg(test)]
mod checkpoints;
#[cfg(test)]
mod configurations;
#[cfg(test)]
mod gguf;
#[cfg(test)]
mod parity;
#[cfg(test)]
mod snapshots;
#[cfg(test)]
mod special;
#[cfg(test)]
mod support;
#[cfg(test)]
mod text;
#[cfg(test)]
mod turns;
