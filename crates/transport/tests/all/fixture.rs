//! Authorities, nodes that show whatever a test wants, and two endpoints that meet.

use proto::{NodeName, Role};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, ConnectionError, Endpoint};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use time::OffsetDateTime;
use transport::certs::{Authority, Credentials, SERVER_NAME, Validity};

/// No test takes as long.
const LIMIT: Duration = Duration::from_secs(30);

pub fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

pub fn roles(roles: &[Role]) -> BTreeSet<Role> {
    roles.iter().copied().collect()
}

/// From so many days from now for 30 days.
pub fn from_day(days: i64) -> Validity {
    let start = OffsetDateTime::now_utc() + time::Duration::days(days);
    Validity {
        not_before: start,
        not_after: start + time::Duration::days(30),
    }
}

/// Valid now.
pub fn now() -> Validity {
    from_day(-1)
}

/// An authority in a folder of its own.
pub struct Run {
    pub dir: TempDir,
    pub authority: Authority,
}

impl Run {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(dir.path(), from_day(-60).until(from_day(300))).unwrap();
        Self { dir, authority }
    }

    /// Issues a certificate; the node's folder.
    pub fn issue(&self, name: &str, has: &[Role], validity: Validity) -> PathBuf {
        let name = node(name);
        self.authority.issue(&name, &roles(has), validity).unwrap();
        self.authority.node_folder(&name)
    }

    pub fn credentials(&self, name: &str, has: &[Role]) -> Credentials {
        Credentials::load(&self.issue(name, has, now())).unwrap()
    }

    /// What a node shows that no check of ours has looked at.
    pub fn shown(&self, name: &str, has: &[Role], validity: Validity) -> Shown {
        Shown::of_folder(&self.issue(name, has, validity))
    }

    /// A certificate with these names, signed by the authority's own key.
    pub fn signed(&self, names: &[&str]) -> Shown {
        let key = std::fs::read_to_string(self.dir.path().join("ca-key.pem")).unwrap();
        self.signed_with(&KeyPair::from_pem(&key).unwrap(), names)
    }

    /// A certificate in the authority's name, signed by that key.
    pub fn signed_with(&self, signer: &KeyPair, names: &[&str]) -> Shown {
        let root = std::fs::read_to_string(self.dir.path().join("ca.pem")).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&root, signer).unwrap();
        let key = KeyPair::generate().unwrap();
        Shown::new(&params(names).signed_by(&key, &issuer).unwrap(), &key)
    }
}

/// Prolongs a validity to the end of another.
pub trait Until {
    fn until(self, other: Validity) -> Validity;
}

impl Until for Validity {
    fn until(self, other: Validity) -> Validity {
        Validity {
            not_after: other.not_after,
            ..self
        }
    }
}

/// A certificate and a key as PEM, that may or may not belong together.
#[derive(Clone)]
pub struct Shown {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Shown {
    pub fn of_folder(folder: &Path) -> Self {
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
        Self {
            certificate_pem: read("cert.pem"),
            key_pem: read("key.pem"),
        }
    }

    pub fn self_signed(names: &[&str]) -> Self {
        let key = KeyPair::generate().unwrap();
        Self::new(&params(names).self_signed(&key).unwrap(), &key)
    }

    fn new(certificate: &rcgen::Certificate, key: &KeyPair) -> Self {
        Self {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    fn resolver(&self) -> Arc<SingleCertAndKey> {
        let certificate = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).unwrap();
        let key = provider().key_provider.load_private_key(key).unwrap();
        // It does not check that they belong together.
        let certified = CertifiedKey::new(vec![certificate], key);
        Arc::new(SingleCertAndKey::from(certified))
    }
}

/// Names with a colon are URIs, others DNS names.
fn params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names
        .iter()
        .map(|&name| match name.contains(':') {
            true => SanType::URI(name.try_into().unwrap()),
            false => SanType::DnsName(name.try_into().unwrap()),
        })
        .collect();
    params
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(root: &CertificateDer<'static>) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    Arc::new(roots)
}

/// A client that trusts `root`, shows what it is told to, and checks no identity.
pub fn raw_client(
    root: &CertificateDer<'static>,
    shown: Option<Shown>,
    protocol: &[u8],
) -> ClientConfig {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(root), provider());
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_webpki_verifier(verifier.build().unwrap());
    let mut config = match shown {
        Some(shown) => builder.with_client_cert_resolver(shown.resolver()),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}

/// A server like [`raw_client`].
pub fn raw_server(root: &CertificateDer<'static>, shown: Shown, protocol: &[u8]) -> ServerConfig {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(root), provider());
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_cert_resolver(shown.resolver());
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}

/// How a handshake ended on each side.
pub struct Meeting {
    pub client: Result<Connection, ConnectionError>,
    pub server: Result<Connection, ConnectionError>,
    /// They keep the connections alive.
    _endpoints: [Endpoint; 2],
}

/// Has a client meet a server.
pub async fn meet(client: ClientConfig, server: ServerConfig) -> Meeting {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server: QuicServerConfig = server.try_into().unwrap();
    let server = quinn::ServerConfig::with_crypto(Arc::new(server));
    let listening = Endpoint::server(server, any).unwrap();
    let client: QuicClientConfig = client.try_into().unwrap();
    let client = quinn::ClientConfig::new(Arc::new(client));
    let dialling = Endpoint::client(any).unwrap();

    let address = listening.local_addr().unwrap();
    let dial = async {
        let dialled = dialling.connect_with(client, address, SERVER_NAME);
        dialled.unwrap().await
    };
    let accept = async { listening.accept().await.unwrap().await };
    let both = async { tokio::join!(dial, accept) };
    let (client, server) = tokio::time::timeout(LIMIT, both).await.expect("no end");
    // The client learns only now that the server refused it (TLS 1.3).
    let client = match (client, &server) {
        (Ok(connection), Err(_)) => {
            let closed = tokio::time::timeout(LIMIT, connection.closed()).await;
            Err(closed.expect("the client is not told"))
        }
        (client, _) => client,
    };
    Meeting {
        client,
        server,
        _endpoints: [listening, dialling],
    }
}
