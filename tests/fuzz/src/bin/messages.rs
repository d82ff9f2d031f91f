//! Every message between nodes: any bytes are a message or are refused, and a message is the same
//! after encoding and decoding.
//!
//! The first byte says which message it is to be.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::cluster::{Assignment, EngineRequest, Generated, Join, JoinRequest, Opened, Welcome};
use proto::{Trajectory, Verdict, WeightManifest, codec};
use serde::{Serialize, de::DeserializeOwned};

fn check<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(message) = codec::decode::<T>(bytes) else {
        return;
    };
    // Not compared as values: a NaN differs from itself.
    let once = codec::encode(&message).expect("what was decoded can be encoded");
    let again: T = codec::decode(&once).expect("what was encoded can be decoded");
    let twice = codec::encode(&again).expect("what was decoded can be encoded");
    assert_eq!(once, twice);
}

fuzz_target!(|data: &[u8]| {
    let Some((which, bytes)) = data.split_first() else {
        return;
    };
    match which % 11 {
        0 => check::<Join>(bytes),
        1 => check::<Welcome>(bytes),
        2 => check::<Assignment>(bytes),
        3 => check::<Vec<Opened>>(bytes),
        4 => check::<EngineRequest>(bytes),
        5 => check::<Result<Generated, String>>(bytes),
        6 => check::<Result<Verdict, String>>(bytes),
        7 => check::<Trajectory>(bytes),
        8 => check::<WeightManifest>(bytes),
        9 => check::<bool>(bytes),
        _ => check::<JoinRequest>(bytes),
    }
});
