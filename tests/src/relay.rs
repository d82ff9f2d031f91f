//! A bad network path: passes UDP datagrams on, later, or not at all.

use anyhow::{Context, Result};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::UdpSocket;

/// Largest datagram.
const DATAGRAM: usize = 65_536;

/// What the path does to datagrams.
#[derive(Debug)]
pub struct Path {
    /// Each arrives so much later.
    delay: Duration,
    /// So many of a million are lost.
    lost_ppm: u32,
    drawn: AtomicU64,
}

impl Path {
    /// A path on which each datagram takes `delay` longer, and so many of a million are lost.
    pub fn new(delay: Duration, lost_ppm: u32) -> Self {
        Self {
            delay,
            lost_ppm,
            drawn: AtomicU64::new(0),
        }
    }

    /// The next draw of a simple generator; the sequence is the same in every run, which packet meets
    /// which draw is not.
    fn loses(&self) -> bool {
        let n = self.drawn.fetch_add(1, Ordering::Relaxed);
        // SplitMix64's output function.
        let mut z = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z % 1_000_000) < u64::from(self.lost_ppm)
    }
}

/// Relays a port of this host to the same port of another, as long as the runtime lives.
///
/// # Errors
/// When the port is taken.
pub async fn relay(at: Ipv4Addr, to: Ipv4Addr, port: u16, path: Arc<Path>) -> Result<()> {
    let socket = UdpSocket::bind((at, port)).await;
    let socket = Arc::new(socket.with_context(|| format!("the relay cannot bind {at}:{port}"))?);
    let target = SocketAddr::from((to, port));
    tokio::spawn(async move {
        let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
        let mut buffer = vec![0; DATAGRAM];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let upstream = match clients.get(&from) {
                Some(upstream) => upstream.clone(),
                None => {
                    let Ok(upstream) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await else {
                        continue;
                    };
                    let upstream = Arc::new(upstream);
                    clients.insert(from, upstream.clone());
                    tokio::spawn(back(upstream.clone(), socket.clone(), from, path.clone()));
                    upstream
                }
            };
            pass(&path, buffer[..len].to_vec(), upstream, target);
        }
    });
    Ok(())
}

async fn back(upstream: Arc<UdpSocket>, socket: Arc<UdpSocket>, to: SocketAddr, path: Arc<Path>) {
    let mut buffer = vec![0; DATAGRAM];
    while let Ok((len, _)) = upstream.recv_from(&mut buffer).await {
        pass(&path, buffer[..len].to_vec(), socket.clone(), to);
    }
}

fn pass(path: &Path, datagram: Vec<u8>, socket: Arc<UdpSocket>, to: SocketAddr) {
    if path.loses() {
        return;
    }
    let delay = path.delay;
    tokio::spawn(async move {
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        // A lost datagram is what a relay is for.
        let _ = socket.send_to(&datagram, to).await;
    });
}
