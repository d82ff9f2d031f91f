//! How QUIC is set up. What each setting brought is in `docs/performance.md`.

use crate::Lane;
use crate::certs::Credentials;
use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use sha2::{Digest, Sha256};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// Largest UDP payload, in bytes, on paths that carry it; where they do not, discovery ends lower.
/// Not above 6,550: ten segments of one send then exceed what a socket takes, and transfers stall.
const UDP_PAYLOAD: u16 = 6500;

/// Bytes under way on a stream and on a connection: what a path of 10 ms at 25 Gbit/s holds.
const WINDOW: u32 = 32 << 20;

/// Buffers of the socket in bytes, as far as the system grants them.
const SOCKET_BUFFER: usize = 4 << 20;

/// Streams that a peer may have open at a time.
const STREAMS: u32 = 256;

/// After such a silence a connection is lost, as far as the one who listens says: of the two sides' times
/// the shorter counts.
const LISTENING_IDLE: Duration = Duration::from_secs(20);

/// Silence that ends a connection, and how often it is broken. The control lane is how the loss of a
/// node is noticed: soon, and with four keep-alives to a time-out, so that a lost packet is not taken
/// for a lost node. The others follow it.
fn liveness(lane: Lane) -> (Duration, Duration) {
    match lane {
        Lane::Control => (Duration::from_secs(2), Duration::from_millis(500)),
        Lane::Data | Lane::Bulk | Lane::Gradients => (LISTENING_IDLE, Duration::from_secs(6)),
    }
}

/// Of the one who dials, who knows which lane it is: it says how soon a loss is to be noticed, and
/// keeps the connection alive for both.
pub fn dialling(lane: Lane) -> Arc<TransportConfig> {
    let (idle, keep_alive) = liveness(lane);
    transport(idle, Some(keep_alive))
}

/// Of the one who listens: before the handshake it does not know which lane it will be.
pub fn listening() -> Arc<TransportConfig> {
    transport(LISTENING_IDLE, None)
}

fn transport(idle: Duration, keep_alive: Option<Duration>) -> Arc<TransportConfig> {
    let idle = IdleTimeout::try_from(idle).expect("seconds fit");
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(UDP_PAYLOAD);
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(keep_alive)
        .mtu_discovery_config(Some(mtu))
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(u64::from(WINDOW))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None);
    Arc::new(config)
}

/// Keys that stay the same when a node is started again: a peer of the process before then learns
/// within a round trip that its connection is gone, instead of waiting for the time-out.
///
/// Each socket has keys of its own, by the address it is bound to. With keys in common one socket would
/// give out the tokens that reset connections of another, to whoever sends it an id that was seen on
/// the way (RFC 9000, 21.11).
pub fn endpoint(credentials: &Credentials, bound: SocketAddr) -> quinn::EndpointConfig {
    let derive = |purpose: &[u8]| {
        let key = credentials.key();
        Sha256::new()
            .chain_update(purpose)
            .chain_update(bound.to_string())
            .chain_update([0])
            .chain_update(key.secret_der())
            .finalize()
    };
    let reset = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &derive(b"swirl stateless reset"));
    let ids = derive(b"swirl connection ids");
    let ids = u64::from_le_bytes(ids[..8].try_into().expect("eight bytes"));
    let mut config = quinn::EndpointConfig::new(Arc::new(reset));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    config
        .max_udp_payload_size(UDP_PAYLOAD)
        .expect("it is above the least allowed, 1200");
    config
}

pub fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    // Without the larger buffers it works too, with more losses under load.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
