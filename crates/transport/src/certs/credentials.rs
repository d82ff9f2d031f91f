//! What a node shows of itself, and whom it trusts.

use super::checks::Read;
use super::revoked::Revoked;
use super::{CERTIFICATE_FILE, CertError, KEY_FILE, ROOT_FILE, folder, identity_of};
use proto::Identity;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;
use time::OffsetDateTime;

/// A node's certificate, its key and the authority that it trusts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Credentials {
    identity: Identity,
    not_after: OffsetDateTime,
    certificate: CertificateDer<'static>,
    /// `Debug` does not show it.
    key: Arc<PrivateKeyDer<'static>>,
    root: CertificateDer<'static>,
    revoked: Arc<Revoked>,
}

impl Credentials {
    /// Reads `ca.pem`, `cert.pem` and `key.pem` of a node's folder, and `revoked` where there is one,
    /// and checks all that other nodes will check: better one clear message at the start than refusals
    /// from all sides later.
    ///
    /// # Errors
    /// When a file is missing or malformed; when others may read the key; when the key is not the
    /// certificate's; when another authority signed the certificate; when it is not valid now; when
    /// it does not say which node it is.
    pub fn load(folder: &Path) -> Result<Self, CertError> {
        let missing = |path| CertError::NoNode { path };
        let root_path = folder.join(ROOT_FILE);
        let root = Read::of_pem(&root_path, &folder::read(&root_path, missing)?)?;
        let path = folder.join(CERTIFICATE_FILE);
        let certificate = Read::of_pem(&path, &folder::read(&path, missing)?)?;
        let key_path = folder.join(KEY_FILE);
        let key = certificate.key_of_pem(&key_path, &folder::read_key(&key_path, missing)?)?;
        certificate.check_signer(&root)?;
        let validity = certificate.check_time(OffsetDateTime::now_utc())?;
        let identity = identity_of(&certificate.der).map_err(|source| CertError::Identity {
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            identity,
            not_after: validity.not_after,
            certificate: certificate.der,
            key: Arc::new(key),
            root: root.der,
            revoked: Arc::new(Revoked::read(folder)?),
        })
    }

    /// The same with another list of certificates that are shut out.
    pub(super) fn with_revoked(&self, revoked: Revoked) -> Self {
        Self {
            revoked: Arc::new(revoked),
            ..self.clone()
        }
    }

    /// Whether others see no difference, and the same ones are shut out.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.certificate == other.certificate
            && self.key == other.key
            && self.root == other.root
            && self.revoked == other.revoked
    }

    /// Who the node is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// When the certificate ends: from then on no new connection is accepted. Those that are open
    /// stay.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// The certificates to show: the node's, which the authority signed without one in between.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    /// The certificate's private key.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    /// Certificates that this node shuts out.
    pub fn revoked(&self) -> &Arc<Revoked> {
        &self.revoked
    }

    /// The authority's certificate.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }
}
