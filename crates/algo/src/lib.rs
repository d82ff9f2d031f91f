//! The arithmetic of post-training: packing sequences into tries, advantages, token losses, and the
//! chunked log-softmax they meet in.
//!
//! Pure functions on host arrays and tensors. Knows nothing about models or I/O.
//!
//! A step goes through the modules in this order: [`advantage`] turns rewards into weights,
//! [`pack`] lays sequences out so that a shared prefix runs once, [`logprob`] turns hidden states
//! into log-probabilities a chunk at a time, and asks [`loss`] for the derivative of each;
//! [`gradient`] sums up what comes of them.

pub mod advantage;
pub mod gradient;
pub mod logprob;
pub mod loss;
pub mod pack;
