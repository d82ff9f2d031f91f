//! Handshakes between real endpoints: who may meet whom, and what those who may not are told.

use crate::fixture::{Meeting, Run, Shown, from_day, meet, node, now, raw_client, raw_server};
use proto::Role;
use quinn::ConnectionError;
use rcgen::KeyPair;
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection,
};
use std::sync::Arc;
use transport::Lane;
use transport::certs::SERVER_NAME;
use transport::tls::{
    self, Expected, client, peer_identity, quic_client, quic_server, refusal, server,
};

fn expect(role: Role) -> Expected {
    Expected {
        role: Some(role),
        name: None,
    }
}

fn said<T: std::fmt::Debug>(result: Result<T, ConnectionError>) -> String {
    let error = result.unwrap_err();
    refusal(&error, &[Lane::Data]).unwrap_or_else(|| panic!("no refusal: {error}"))
}

/// Both sides' sentences.
fn refused(meeting: Meeting) -> (String, String) {
    (said(meeting.client), said(meeting.server))
}

fn assert_says(what: &str, text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{what}: {text:?} lacks {part:?}");
    }
}

#[tokio::test]
async fn nodes_that_may_meet_know_each_other() {
    let run = Run::new();
    let a = run.credentials("a", &[Role::Sampler, Role::Tool]);
    let lead = run.credentials("lead", &[Role::Controller]);
    let (role, name) = (Some(Role::Controller), Some(node("lead")));
    for (role, name) in [(role, None), (role, name.clone()), (None, name)] {
        let expected = Expected { role, name };
        let meeting = meet(
            client(&a, Lane::Data, &expected).unwrap(),
            server(&lead, &Lane::ALL).unwrap(),
        )
        .await;
        let (client, server) = (meeting.client.unwrap(), meeting.server.unwrap());
        assert_eq!(peer_identity(&client).as_ref(), Ok(lead.identity()));
        assert_eq!(peer_identity(&server).as_ref(), Ok(a.identity()));
        for connection in [client, server] {
            let data = connection.handshake_data().unwrap();
            let data = data
                .downcast::<quinn::crypto::rustls::HandshakeData>()
                .unwrap();
            let lane = Lane::of_alpn(&data.protocol.unwrap());
            assert_eq!(lane, Some(Lane::Data));
        }
    }
}

/// What a node shows; what the side that refuses it says; what it is told.
type Wrong = (
    &'static str,
    fn(&Run) -> Option<Shown>,
    &'static [&'static str],
    &'static [&'static str],
);

const WHOLE: [&str; 3] = [SERVER_NAME, "swirl:node/a", "swirl:role/sampler"];

/// Wrong for servers and clients alike.
const WRONG: [Wrong; 7] = [
    (
        "self-signed",
        |_| Some(Shown::self_signed(&WHOLE)),
        &["its certificate is of another authority", "`swirl certs`"],
        &["this node's certificate is of another authority"],
    ),
    (
        "another authority",
        |_| Some(Run::new().shown("a", &[Role::Sampler], now())),
        &["its certificate is of another authority"],
        &["this node's certificate is of another authority"],
    ),
    (
        "another authority by the same name",
        |run| Some(run.signed_with(&KeyPair::generate().unwrap(), &WHOLE)),
        &["a signature is wrong: its key", "another authority"],
        &["a signature is wrong: this node's key"],
    ),
    (
        "expired",
        |run| Some(run.shown("a", &[Role::Sampler], from_day(-40))),
        &["its certificate has expired", "`swirl certs renew`"],
        &["this node's certificate has expired"],
    ),
    (
        "not yet valid",
        |run| Some(run.shown("a", &[Role::Sampler], from_day(2))),
        &["its certificate is not valid yet", "clocks"],
        &["this node's certificate is not valid yet"],
    ),
    (
        "nobody",
        |run| Some(run.signed(&[SERVER_NAME])),
        &["its certificate is no node's: it names no node"],
        &["it names no node"],
    ),
    (
        "the key of another",
        |run| {
            let other = run.shown("b", &[Role::Sampler], now());
            Some(Shown {
                key_pem: other.key_pem,
                ..run.shown("a", &[Role::Sampler], now())
            })
        },
        &["a signature is wrong: its key is not that of"],
        &["a signature is wrong: this node's key"],
    ),
];

#[tokio::test]
async fn tl_1_wrong_clients_are_refused() {
    let none: Wrong = (
        "no certificate",
        |_| None,
        &["it showed no certificate", "`swirl certs issue`"],
        &["this node showed no certificate"],
    );
    for (what, shown, says, tells) in WRONG.into_iter().chain([none]) {
        let run = Run::new();
        let lead = run.credentials("lead", &[Role::Controller]);
        let wrong = raw_client(lead.root(), shown(&run), &Lane::Data.alpn());
        let right = server(&lead, &[Lane::Data]).unwrap();
        let (client, server) = refused(meet(wrong, right).await);
        assert_says(what, &server, says);
        assert_says(what, &server, &["refused the other node: "]);
        assert_says(what, &client, tells);
        assert_says(what, &client, &["the other node refused this one: "]);
    }
}

#[tokio::test]
async fn tl_1_wrong_servers_are_refused() {
    let others: [Wrong; 3] = [
        (
            "another role",
            |run| Some(run.shown("a", &[Role::Tool, Role::Judge], now())),
            &["refused the other node: expected a with the role sampler, met a (tool, judge)"],
            &["expected a with the role sampler, met a (tool, judge)"],
        ),
        (
            "another name",
            |run| Some(run.shown("b", &[Role::Sampler], now())),
            &["refused the other node: expected a with the role sampler, met b (sampler)"],
            &["expected a with the role sampler, met b (sampler)"],
        ),
        (
            "another server name",
            |run| Some(run.signed(&["swirl.example", "swirl:node/a", "swirl:role/sampler"])),
            &[
                "its certificate is not as `swirl certs` makes it",
                "swirl.example",
            ],
            &["this node's certificate is not as `swirl certs` makes it"],
        ),
    ];
    for (what, shown, says, tells) in WRONG.into_iter().chain(others) {
        let run = Run::new();
        let lead = run.credentials("lead", &[Role::Controller]);
        let shown = shown(&run).expect("a server shows something");
        let expected = Expected {
            role: Some(Role::Sampler),
            name: Some(node("a")),
        };
        let right = client(&lead, Lane::Data, &expected).unwrap();
        let wrong = raw_server(lead.root(), shown, &Lane::Data.alpn());
        let (client, server) = refused(meet(right, wrong).await);
        assert_says(what, &client, says);
        assert_says(what, &client, &["refused the other node: "]);
        assert_says(what, &server, tells);
        assert_says(what, &server, &["the other node refused this one: "]);
    }
}

#[tokio::test]
async fn tl_3_versions_without_a_common_protocol_do_not_connect() {
    let run = Run::new();
    let lead = run.credentials("lead", &[Role::Controller]);
    let shown = run.shown("a", &[Role::Sampler], now());
    // Another version, and a lane that is served elsewhere.
    for protocol in [&b"swirl/2/data"[..], &Lane::Bulk.alpn()] {
        let dials = raw_client(lead.root(), Some(shown.clone()), protocol);
        let serves = server(&lead, &[Lane::Data]).unwrap();
        let (client, server) = refused(meet(dials, serves).await);
        for said in [client, server] {
            let says = ["no protocol in common", "swirl/1/data", "same version"];
            assert_says("protocol", &said, &says);
        }
    }
}

#[test]
fn tl_2_no_session_is_resumed() {
    let run = Run::new();
    let a = run.credentials("a", &[Role::Sampler]);
    let lead = run.credentials("lead", &[Role::Controller]);
    let client = Arc::new(client(&a, Lane::Control, &expect(Role::Controller)).unwrap());
    let server = Arc::new(server(&lead, &[Lane::Control]).unwrap());
    for _ in 0..2 {
        let full = Some(HandshakeKind::Full);
        assert_eq!(handshake(&client, &server), [full, full]);
    }
    assert!(!client.enable_early_data);
    assert_eq!(server.max_early_data_size, 0);
}

/// A handshake without a network, and with all that the server sends after it.
fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> [Option<HandshakeKind>; 2] {
    let name = SERVER_NAME.try_into().unwrap();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().unwrap();
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    [client.handshake_kind(), server.handshake_kind()]
}

#[test]
fn aes_is_preferred_and_quic_content() {
    let run = Run::new();
    let a = run.credentials("a", &[Role::Sampler]);
    let config = tls::client(&a, Lane::Bulk, &expect(Role::Controller)).unwrap();
    let suites = &config.crypto_provider().cipher_suites;
    let suites: Vec<_> = suites.iter().map(|suite| suite.suite()).collect();
    assert_eq!(suites.len(), 3);
    assert_eq!(suites[0], CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(suites[2], CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    quic_client(&a, Lane::Bulk, &expect(Role::Controller)).unwrap();
    quic_server(&a, &Lane::ALL).unwrap();
}
