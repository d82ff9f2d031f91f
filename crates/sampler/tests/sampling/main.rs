//! The sampler from outside, on decoders small enough to check every number.

#[cfg(test)]
mod engine;
#[cfg(test)]
mod handle;
#[cfg(test)]
mod support;
