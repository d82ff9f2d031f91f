//! For tests alone: a library with the binary interface of NCCL and of the CUDA driver that moves
//! host memory between threads of one process.
//!
//! It takes NCCL's place where there is no GPU: whoever loads it by path sees communicators that begin
//! without blocking, streams that work in the background, and what NCCL does when something goes
//! wrong, which a test orders with the functions of [`orders`]. What it knows of NCCL is its published
//! interface; that says nothing about NCCL's speed, its algorithms or a GPU.
//!
//! - **NA-1 (handles are numbers).** A stream, an event, a context or a communicator is an entry of a
//!   table, and its pointer is the entry's number: a handle that is not open is an error that is
//!   counted ([`orders::abi_misuses`]), never a wild read.
//! - **NA-2 (as late as allowed).** Work is launched only when the caller has asked twice whether it
//!   is, so that a caller who does not ask is found out.
//! - **NA-3 (no mercy).** Calls that do not fit each other wait for each other for ever, as NCCL's may.
//!
//! Knows nothing about `collective`, which loads it.
#![allow(unsafe_code)]

mod arithmetic;
mod driver;
mod handles;
mod nccl;
pub mod orders;
