//! What is checked of certificates that were read.

use super::{CertError, Validity};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use time::OffsetDateTime;

/// A certificate and the file that it came from.
pub(super) struct Read<'a> {
    pub path: &'a Path,
    pub der: CertificateDer<'static>,
}

impl<'a> Read<'a> {
    /// The first certificate of a PEM text.
    pub fn of_pem(path: &'a Path, pem: &[u8]) -> Result<Self, CertError> {
        let der = CertificateDer::from_pem_slice(pem);
        let der = der.map_err(|error| malformed(path, error))?;
        let read = Self { path, der };
        // Malformed is said of this file then, not of one that is compared with it later.
        read.validity()?;
        Ok(read)
    }

    /// From when until when it is valid.
    pub fn validity(&self) -> Result<Validity, CertError> {
        let (_, parsed) = x509_parser::parse_x509_certificate(&self.der)
            .map_err(|error| malformed(self.path, error))?;
        Ok(Validity {
            not_before: parsed.validity.not_before.to_datetime(),
            not_after: parsed.validity.not_after.to_datetime(),
        })
    }

    /// Refuses a certificate that is not valid at `now`.
    pub fn check_time(&self, now: OffsetDateTime) -> Result<Validity, CertError> {
        let validity = self.validity()?;
        let path = || self.path.to_owned();
        let Validity {
            not_before,
            not_after,
        } = validity;
        match () {
            () if now > not_after => Err(CertError::Expired {
                path: path(),
                not_after,
            }),
            () if now < not_before => Err(CertError::NotYetValid {
                path: path(),
                not_before,
            }),
            () => Ok(validity),
        }
    }

    /// Refuses a certificate that `root` did not sign, whether its time is over or not.
    pub fn check_signer(&self, root: &Read<'_>) -> Result<(), CertError> {
        let mut roots = RootCertStore::empty();
        roots
            .add(root.der.clone())
            .map_err(|error| malformed(root.path, error))?;
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| malformed(root.path, error))?;
        // Its first second, which no certificate is without.
        let seconds = self.validity()?.not_before.unix_timestamp();
        let at = std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let at = UnixTime::since_unix_epoch(at);
        use CertificateError::{BadSignature, UnknownIssuer};
        match verifier.verify_client_cert(&self.der, &[], at) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InvalidCertificate(UnknownIssuer | BadSignature)) => {
                Err(CertError::OtherAuthority {
                    path: self.path.to_owned(),
                    authority: root.path.to_owned(),
                })
            }
            Err(error) => Err(malformed(self.path, error)),
        }
    }

    /// The key of a PEM text, if it is this certificate's.
    pub fn key_of_pem(&self, path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, CertError> {
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| malformed(path, error))?;
        let signing = default_provider()
            .key_provider
            .load_private_key(key.clone_key())
            .map_err(|error| malformed(path, error))?;
        match CertifiedKey::new(vec![self.der.clone()], signing).keys_match() {
            Ok(()) => Ok(key),
            Err(rustls::Error::InconsistentKeys(_)) => Err(CertError::OtherKey {
                key: path.to_owned(),
                certificate: self.path.to_owned(),
            }),
            Err(error) => Err(malformed(self.path, error)),
        }
    }
}

pub(super) fn malformed(path: &Path, reason: impl std::fmt::Display) -> CertError {
    CertError::Malformed {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
