//! Stateless resets (RFC 9000, 10.3): a process that was started again ends the connections of the
//! one before it, and no socket gives out what ends those of another (21.11).

use crate::fixture::Run;
use proto::Role;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UdpSocket;
use transport::certs::Credentials;
use transport::tls::Expected;
use transport::{Endpoint, Lane};

/// No test takes as long.
const LIMIT: Duration = Duration::from_secs(30);

/// Length of connection ids of this program, in bytes.
const ID: usize = 8;

/// Packets with a long header say so in the first bit (RFC 9000, 17.2).
const LONG: u8 = 0x80;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn bind(credentials: &Arc<Credentials>, at: SocketAddr, lane: Lane) -> Endpoint {
    Endpoint::bind(at, credentials.clone(), &[lane]).unwrap()
}

/// Stands between a client and a server, and remembers ids by which the client calls the server.
async fn watch(socket: UdpSocket, server: SocketAddr, seen: Arc<Mutex<Vec<[u8; ID]>>>) {
    let (mut client, mut buffer) = (None, vec![0; 65_536]);
    loop {
        let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
        let packet = &buffer[..len];
        if from == server {
            if let Some(client) = client {
                socket.send_to(packet, client).await.unwrap();
            }
            continue;
        }
        client = Some(from);
        if packet[0] & LONG == 0 {
            let id = packet[1..=ID].try_into().unwrap();
            seen.lock().unwrap().push(id);
        }
        socket.send_to(packet, server).await.unwrap();
    }
}

/// A packet of no connection: by this id, and otherwise noise.
fn packet(id: [u8; ID]) -> Vec<u8> {
    let mut packet = vec![0x40];
    packet.extend(id);
    packet.extend([0xa5; 200]);
    packet
}

/// A packet of a version that nobody speaks: the answer names others.
fn unknown_version() -> Vec<u8> {
    let mut packet = vec![LONG | 0x40, 0xfa, 0xfa, 0xfa, 0xfa, 8];
    packet.extend([1; 8]);
    packet.push(0);
    packet.resize(1300, 0);
    packet
}

/// The answers of a server to a packet, up to that to a second one, which is always answered.
async fn answers(to: SocketAddr, packet: &[u8]) -> Vec<Vec<u8>> {
    let socket = UdpSocket::bind(ANY).await.unwrap();
    socket.send_to(packet, to).await.unwrap();
    socket.send_to(&unknown_version(), to).await.unwrap();
    let (mut found, mut buffer) = (Vec::new(), vec![0; 65_536]);
    loop {
        let received = tokio::time::timeout(LIMIT, socket.recv_from(&mut buffer)).await;
        let (len, _) = received.expect("no answer").unwrap();
        match buffer[0] & LONG {
            0 => found.push(buffer[..len].to_vec()),
            _ => return found,
        }
    }
}

#[tokio::test]
async fn no_socket_gives_out_what_resets_connections_of_another() {
    let run = Run::new();
    let head = Arc::new(run.credentials("head", &[Role::Controller]));
    let control = bind(&head, ANY, Lane::Control);
    let data = bind(&head, ANY, Lane::Data);
    let at = control.local_address().unwrap();

    let between = UdpSocket::bind(ANY).await.unwrap();
    let to = between.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let watching = tokio::spawn(watch(between, at, seen.clone()));
    let client = Endpoint::bind(ANY, run.credentials("a", &[Role::Tool]), &[]).unwrap();
    let expected = Expected {
        role: Some(Role::Controller),
        name: None,
    };
    let dialled = client.dial(to, Lane::Control, &expected).await.unwrap();
    let accepted = control.accept().await.unwrap();
    let id = loop {
        if let Some(id) = seen.lock().unwrap().last() {
            break *id;
        }
        tokio::task::yield_now().await;
    };

    // Asked at the other socket, by whoever saw a packet of the connection.
    let from_data = answers(data.local_address().unwrap(), &packet(id)).await;

    // The process is started again: now the same packet is answered with what ends the connection.
    watching.abort();
    drop((dialled, accepted, client));
    control.close("gone").await;
    drop(control);
    let again = loop {
        match Endpoint::bind(at, head.clone(), &[Lane::Control]) {
            Ok(again) => break again,
            // The one before it lets go of the address soon.
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let asking = async {
        loop {
            let mut found = answers(again.local_address().unwrap(), &packet(id)).await;
            if let Some(reset) = found.pop() {
                return reset;
            }
        }
    };
    let reset = tokio::time::timeout(LIMIT, asking).await.expect("no reset");
    let token = |packet: &Vec<u8>| packet[packet.len() - 16..].to_vec();
    assert!(
        from_data.iter().all(|other| token(other) != token(&reset)),
        "the data socket gives out the token of a control connection"
    );
}
