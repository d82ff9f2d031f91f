//! TLS between nodes: both sides show a certificate of the run's authority.
//!
//! - **TL-1 (mutual).** A server answers only clients whose certificate its own authority signed and
//!   which says who they are. A client answers only such servers, and of those only the one it
//!   expects ([`Expected`]). Neither answers a certificate that it shuts out
//!   ([`Revoked`](crate::certs::Revoked)). What a client may do is for the server to decide, by
//!   [`peer_identity`].
//! - **TL-2 (each time anew).** No session is resumed and no data is sent before the handshake's end:
//!   every connection checks the certificate as it is now.
//! - **TL-3 (one version).** TLS 1.3 only. The version of the wire protocol is agreed on by ALPN
//!   ([`Lane::alpn`]); nodes without one in common do not connect.
//!
//! A client's `connect` returns before the server has checked the client's certificate (TLS 1.3): a
//! server's refusal shows on the client's first read.

mod refusal;
mod stream;
mod verify;

pub use refusal::refusal;
pub use stream::TlsStream;

use crate::Lane;
use crate::certs::{BadIdentity, Credentials, identity_of};
use proto::{Identity, NodeName, Role};
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::fmt;
use std::sync::Arc;

/// Whom a client expects at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// A role that the node must have, if it must have one.
    pub role: Option<Role>,
    /// Its name, where only that node will do.
    pub name: Option<NodeName>,
}

impl Expected {
    /// Whether it is this node.
    pub fn is_met_by(&self, identity: &Identity) -> bool {
        let (role, name) = (self.role.as_ref(), self.name.as_ref());
        role.is_none_or(|role| identity.roles.contains(role))
            && name.is_none_or(|name| *name == identity.name)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}")?,
            None => f.write_str("a node")?,
        }
        match self.role {
            Some(role) => write!(f, " with the role {role}"),
            None => Ok(()),
        }
    }
}

/// TLS cannot be set up. [`Credentials`] were checked when they were loaded, so the library refuses
/// what was fit before: a fault of this program.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The library refuses the certificate or the key.
    #[error("TLS refuses the node's own certificate: {0}")]
    Certificate(#[from] rustls::Error),
    /// The library refuses the authority.
    #[error("TLS refuses the node's authority: {0}")]
    Authority(#[from] VerifierBuilderError),
    /// QUIC needs a cipher suite that is missing.
    #[error("QUIC refuses the cipher suites: {0}")]
    Suites(#[from] NoInitialCipherSuite),
}

/// For a client of one lane that expects a certain server. It asks for
/// [`SERVER_NAME`](crate::certs::SERVER_NAME).
///
/// # Errors
/// See [`TlsError`].
pub fn client(
    credentials: &Credentials,
    lane: Lane,
    expected: &Expected,
) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let trust = verify::Trust::of(credentials, roots(credentials)?);
    let verifier = verify::ServerCheck::new(trust, &provider, expected.clone())?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(credentials.chain(), credentials.key())?;
    config.alpn_protocols = vec![lane.alpn()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

/// For a server of these lanes.
///
/// # Errors
/// See [`TlsError`].
pub fn server(credentials: &Credentials, lanes: &[Lane]) -> Result<ServerConfig, TlsError> {
    let provider = provider();
    let trust = verify::Trust::of(credentials, roots(credentials)?);
    let verifier = verify::ClientCheck::new(trust, &provider)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(credentials.chain(), credentials.key())?;
    config.alpn_protocols = lanes.iter().map(|lane| lane.alpn()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// [`client`] for QUIC.
///
/// # Errors
/// See [`TlsError`].
pub fn quic_client(
    credentials: &Credentials,
    lane: Lane,
    expected: &Expected,
) -> Result<QuicClientConfig, TlsError> {
    Ok(client(credentials, lane, expected)?.try_into()?)
}

/// [`server`] for QUIC.
///
/// # Errors
/// See [`TlsError`].
pub fn quic_server(
    credentials: &Credentials,
    lanes: &[Lane],
) -> Result<QuicServerConfig, TlsError> {
    Ok(server(credentials, lanes)?.try_into()?)
}

/// Who is at the other end, as its certificate says, which the handshake has checked.
///
/// # Errors
/// When the connection was made without the checks of this module.
pub fn peer_identity(connection: &quinn::Connection) -> Result<Identity, BadIdentity> {
    identity_of(&peer_certificate(connection)?)
}

/// The certificate that the other end has shown.
pub(crate) fn peer_certificate(
    connection: &quinn::Connection,
) -> Result<CertificateDer<'static>, BadIdentity> {
    let chain = connection.peer_identity();
    let chain = chain.and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
    let certificate = chain.and_then(|chain| chain.into_iter().next());
    certificate.ok_or(BadIdentity::NoCertificate)
}

fn roots(credentials: &Credentials) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(credentials.root().clone())?;
    Ok(Arc::new(roots))
}

/// Ring's, with AES-GCM before ChaCha20, which moves half as many bytes per second where the
/// processor has AES instructions.
fn provider() -> Arc<CryptoProvider> {
    use ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
            TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..ring::default_provider()
    })
}
