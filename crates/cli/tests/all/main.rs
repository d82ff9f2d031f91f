//! The binary from outside, as a user starts it. One program: each would link libtorch anew.

#[cfg(test)]
mod adapters;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod door;
#[cfg(test)]
mod ending;
#[cfg(test)]
mod launch;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod resume;
#[cfg(test)]
mod run;
#[cfg(test)]
mod support;
