//! Certificates that change while endpoints are open.

use crate::fixture::{Run, from_day, node, now, roles};
use async_trait::async_trait;
use bytes::Bytes;
use proto::Role;
use rustls::pki_types::pem::PemObject;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use transport::certs::{CertError, CurrentCredentials, Revocation, Serial};
use transport::tls::Expected;
use transport::{Connection, DialError, Endpoint, Handler, Lane, Limits, Link, Request};

/// No test takes as long.
const LIMIT: Duration = Duration::from_secs(30);

struct Echo;

#[async_trait]
impl Handler for Echo {
    async fn request(&self, request: Request) -> Result<Bytes, String> {
        Ok(request.body)
    }

    async fn cast(&self, _: u8, _: Bytes) {}
}

fn endpoint(credentials: &CurrentCredentials, serves: &[Lane]) -> Endpoint {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Endpoint::bind(any, credentials.clone(), serves).unwrap()
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("no end")
}

/// A controller and a sampler, each with what its folder holds.
struct Nodes {
    run: Run,
    head: CurrentCredentials,
    sampler: CurrentCredentials,
    server: Endpoint,
    client: Endpoint,
}

impl Nodes {
    fn new() -> Self {
        let run = Run::new();
        let open = |folder: &Path| CurrentCredentials::open(folder).unwrap();
        let head = open(&run.issue("head", &[Role::Controller], now()));
        let sampler = open(&run.issue("gpu-1", &[Role::Sampler], now()));
        let (server, client) = (endpoint(&head, &[Lane::Control]), endpoint(&sampler, &[]));
        Self {
            run,
            head,
            sampler,
            server,
            client,
        }
    }

    /// Gives a node a certificate with these roles, in the place of the one it has.
    fn reissue(&self, name: &str, has: &[Role]) {
        let has = has.iter().copied().collect();
        self.run
            .authority
            .reissue(&node(name), &has, now())
            .unwrap();
    }

    async fn dial(&self) -> Result<Arc<dyn Connection>, DialError> {
        let expected = Expected {
            role: Some(Role::Controller),
            name: None,
        };
        let address = self.server.local_address().unwrap();
        self.client.dial(address, Lane::Control, &expected).await
    }

    async fn connect(&self) -> [Arc<dyn Connection>; 2] {
        let both = async { tokio::join!(self.dial(), self.server.accept()) };
        let (dialled, accepted) = within(both).await;
        [dialled.unwrap(), accepted.unwrap()]
    }

    async fn link(&self) -> [Link; 2] {
        let [a, b] = self.connect().await;
        let open = |connection| Link::open(connection, Arc::new(Echo), Limits::default());
        let (a, b) = within(async { tokio::join!(open(a), open(b)) }).await;
        [a.unwrap(), b.unwrap()]
    }

    /// Why the sampler is turned away.
    async fn turned_away(&self) -> String {
        let connection = match within(self.dial()).await {
            Ok(connection) => connection,
            Err(error) => return error.to_string(),
        };
        let opening = Link::open(connection, Arc::new(Echo), Limits::default());
        match within(opening).await {
            Ok(_) => panic!("it was let in"),
            Err(error) => error.to_string(),
        }
    }
}

#[tokio::test]
async fn ce_5_new_connections_show_the_renewed_certificate_and_open_ones_stay() {
    let nodes = Nodes::new();
    let [link, _served] = nodes.link().await;
    // Roles show which certificate it is.
    nodes.reissue("head", &[Role::Controller, Role::Tool]);
    nodes.reissue("gpu-1", &[Role::Sampler, Role::Judge]);
    assert!(nodes.head.look().unwrap() && nodes.sampler.look().unwrap());
    assert!(!nodes.head.look().unwrap(), "nothing is new any more");
    let renewed = async {
        loop {
            let [dialled, accepted] = nodes.connect().await;
            // The one who dials takes it at once, the one who is dialled soon.
            assert_eq!(accepted.peer().roles, roles(&[Role::Sampler, Role::Judge]));
            if dialled.peer().roles == roles(&[Role::Controller, Role::Tool]) {
                return;
            }
        }
    };
    within(renewed).await;
    assert_eq!(within(link.call(0, b"x", LIMIT)).await.unwrap(), &b"x"[..]);
    assert_eq!(link.peer().roles, roles(&[Role::Controller]));
}

#[tokio::test]
async fn ce_5_a_renewed_certificate_replaces_one_that_expired() {
    let nodes = Nodes::new();
    let folder = nodes.run.authority.node_folder(&node("gpu-1"));
    // As after its time: what was read before stays, and what is shown is refused.
    fs::remove_dir_all(&folder).unwrap();
    nodes.run.issue("gpu-1", &[Role::Sampler], from_day(-40));
    let error = nodes.sampler.look().unwrap_err();
    assert!(matches!(error, CertError::Expired { .. }), "{error}");
    let before = nodes.sampler.get().not_after();
    nodes
        .run
        .authority
        .renew(&node("gpu-1"), from_day(0))
        .unwrap();
    assert!(nodes.sampler.look().unwrap());
    assert!(nodes.sampler.get().not_after() > before);
    nodes.connect().await;
}

#[tokio::test]
async fn a_folder_that_is_of_no_use_changes_nothing() {
    let nodes = Nodes::new();
    let folder = nodes.run.authority.node_folder(&node("gpu-1"));
    nodes.run.issue("gpu-2", &[Role::Sampler], now());
    let other = nodes.run.authority.node_folder(&node("gpu-2"));
    let kept = nodes.sampler.get();
    // Half copied, then another node's, then none at all.
    fs::copy(other.join("key.pem"), folder.join("key.pem")).unwrap();
    assert!(matches!(
        nodes.sampler.look(),
        Err(CertError::OtherKey { .. })
    ));
    fs::copy(other.join("cert.pem"), folder.join("cert.pem")).unwrap();
    assert!(matches!(
        nodes.sampler.look(),
        Err(CertError::OtherNode { .. })
    ));
    fs::remove_dir_all(&folder).unwrap();
    assert!(matches!(
        nodes.sampler.look(),
        Err(CertError::NoNode { .. })
    ));
    assert!(Arc::ptr_eq(&kept, &nodes.sampler.get()));
    nodes.connect().await;
}

#[tokio::test]
async fn ce_6_a_node_that_is_shut_out_loses_its_connections_and_gets_no_new_ones() {
    let nodes = Nodes::new();
    let [link, served] = nodes.link().await;
    let entry = nodes.run.authority.revoke(&node("gpu-1")).unwrap();
    assert_eq!(entry, Revocation::Node(node("gpu-1")));
    assert!(nodes.head.look().unwrap());
    let reason = within(link.closed()).await;
    assert!(reason.contains("shut out"), "{reason}");
    within(served.closed()).await;
    let reason = nodes.turned_away().await;
    assert!(reason.contains("shut out"), "{reason}");
    // Nor is there another certificate for it, until it is taken out of the list.
    let renewed = nodes.run.authority.renew(&node("gpu-1"), now());
    let error = renewed.unwrap_err().to_string();
    assert!(error.contains("gpu-1 is shut out by"), "{error}");
}

#[tokio::test]
async fn ce_6_one_certificate_is_shut_out_and_the_next_one_is_not() {
    let nodes = Nodes::new();
    let authority = &nodes.run.authority;
    authority.revoke_certificate(&node("gpu-1")).unwrap();
    assert!(nodes.head.look().unwrap());
    let shut_out = async {
        // The endpoint follows soon.
        let reason = nodes.turned_away().await;
        assert!(reason.contains("shut out"), "{reason}");
    };
    shut_out.await;
    authority.renew(&node("gpu-1"), now()).unwrap();
    assert!(nodes.sampler.look().unwrap());
    nodes.connect().await;
    // A node that is issued later knows the list, too.
    let later = nodes.run.issue("gpu-2", &[Role::Sampler], now());
    assert!(later.join("revoked").exists());
}

#[tokio::test]
async fn ce_6_a_name_that_nobody_has_is_no_entry_and_a_number_is() {
    let nodes = Nodes::new();
    let authority = &nodes.run.authority;
    let folder = authority.node_folder(&node("gpu-1"));
    let error = authority.revoke(&node("gpu-l")).unwrap_err().to_string();
    for part in [
        "no node gpu-l",
        "gpu-1, head",
        "--serial HEX",
        "`node gpu-l`",
    ] {
        assert!(error.contains(part), "{part} is missing in {error}");
    }
    assert!(!folder.join("revoked").exists(), "something was written");
    // Whose folder is gone is shut out by its certificate's number.
    let pem = fs::read(folder.join("cert.pem")).unwrap();
    let der = rustls::pki_types::CertificateDer::from_pem_slice(&pem).unwrap();
    let serial = Serial::of(&der).unwrap();
    fs::rename(&folder, folder.with_file_name("elsewhere")).unwrap();
    authority.revoke_serial(serial).unwrap();
    assert!(nodes.head.look().unwrap());
    let reason = nodes.turned_away().await;
    assert!(reason.contains("shut out"), "{reason}");
    // A name that is in the list already may be said again.
    fs::rename(folder.with_file_name("elsewhere"), &folder).unwrap();
    authority.revoke(&node("gpu-1")).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    authority.revoke(&node("gpu-1")).unwrap();
}

#[tokio::test]
async fn a_list_is_taken_although_the_certificate_beside_it_is_of_no_use() {
    let nodes = Nodes::new();
    let [link, _served] = nodes.link().await;
    let folder = nodes.run.authority.node_folder(&node("head"));
    fs::write(folder.join("cert.pem"), "half").unwrap();
    fs::write(folder.join("revoked"), "node gpu-1\n").unwrap();
    assert!(nodes.head.look().is_err());
    within(link.closed()).await;
    // One that cannot be read shuts nobody in.
    fs::write(folder.join("revoked"), "gpu-1\n").unwrap();
    let error = nodes.head.look().unwrap_err().to_string();
    assert!(error.contains("line 1"), "{error}");
    assert!(nodes.turned_away().await.contains("shut out"));
}
