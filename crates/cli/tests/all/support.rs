//! The binary under test.

pub use e2e::tiny::{real_model, small_run, tiny_model};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Output};

/// The binary, to be run in `folder`.
pub fn swirl(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_swirl"));
    command
        .args(args)
        .current_dir(folder)
        .env("OMP_NUM_THREADS", "1")
        .env_remove("SWIRL_LOG");
    command
}

/// Runs the binary to its end.
pub fn output(folder: &Path, args: &[&str]) -> Output {
    swirl(folder, args).output().unwrap()
}

/// A UDP port that is free, and so is the next.
pub fn two_ports() -> u16 {
    let bind = |port| UdpSocket::bind(("127.0.0.1", port));
    loop {
        let socket = bind(0).unwrap();
        let port = socket.local_addr().unwrap().port();
        if port < u16::MAX && bind(port + 1).is_ok() {
            return port;
        }
    }
}
