//! What each side checks of the other's certificate: what TLS checks, and then who it is.

use super::Expected;
use crate::certs::{BadIdentity, Credentials, Revoked, identity_of};
use proto::Identity;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use std::fmt;
use std::sync::Arc;

/// The authority signed it, but it is not the node that may be there.
#[derive(thiserror::Error)]
pub(super) enum WrongNode {
    #[error("expected {expected}, met {met}")]
    Unexpected { expected: Expected, met: Identity },
    #[error("its certificate is no node's: {0}")]
    Nobody(BadIdentity),
}

/// As text: rustls puts `Debug` into the message that both sides get to see.
impl fmt::Debug for WrongNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl From<WrongNode> for Error {
    fn from(wrong: WrongNode) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(wrong))))
    }
}

/// Whose certificates are taken.
pub(super) struct Trust {
    /// Of these authorities,
    roots: Arc<RootCertStore>,
    /// and none of these.
    revoked: Arc<Revoked>,
}

impl Trust {
    pub fn of(credentials: &Credentials, roots: Arc<RootCertStore>) -> Self {
        let revoked = credentials.revoked().clone();
        Self { roots, revoked }
    }
}

/// A client's check of a server.
#[derive(Debug)]
pub(super) struct ServerCheck {
    chain: Arc<WebPkiServerVerifier>,
    revoked: Arc<Revoked>,
    expected: Expected,
}

impl ServerCheck {
    pub fn new(
        trust: Trust,
        provider: &Arc<CryptoProvider>,
        expected: Expected,
    ) -> Result<Self, VerifierBuilderError> {
        let builder = WebPkiServerVerifier::builder_with_provider(trust.roots, provider.clone());
        Ok(Self {
            chain: builder.build()?,
            revoked: trust.revoked,
            expected,
        })
    }
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.chain.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        let met = identity_of(end_entity).map_err(WrongNode::Nobody)?;
        if self.revoked.covers(end_entity) {
            return Err(CertificateError::Revoked.into());
        }
        if !self.expected.is_met_by(&met) {
            let expected = self.expected.clone();
            return Err(WrongNode::Unexpected { expected, met }.into());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// A server's check of a client.
#[derive(Debug)]
pub(super) struct ClientCheck {
    chain: Arc<dyn ClientCertVerifier>,
    revoked: Arc<Revoked>,
}

impl ClientCheck {
    pub fn new(trust: Trust, provider: &Arc<CryptoProvider>) -> Result<Self, VerifierBuilderError> {
        let builder = WebPkiClientVerifier::builder_with_provider(trust.roots, provider.clone());
        Ok(Self {
            chain: builder.build()?,
            revoked: trust.revoked,
        })
    }
}

impl ClientCertVerifier for ClientCheck {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        identity_of(end_entity).map_err(WrongNode::Nobody)?;
        match self.revoked.covers(end_entity) {
            true => Err(CertificateError::Revoked.into()),
            false => Ok(verified),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
