//! The run's own certificate authority.

use super::checks::{Read, malformed};
use super::folder::{self, NodeFiles, PRIVATE, PUBLIC};
use super::identity::names_of;
use super::revoked::{Revocation, Revoked, Serial};
use super::{
    CERTIFICATE_FILE, CertError, REVOKED_FILE, ROOT_FILE, ROOT_KEY_FILE, SERVER_NAME, Validity,
    identity_of,
};
use proto::{Identity, NodeName, Role};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// Makes the certificates of a run's nodes. Keys are ECDSA on P-256.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    /// Its certificate as PEM, which every node gets.
    pem: String,
    der: CertificateDer<'static>,
    not_after: OffsetDateTime,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes an authority: `ca.pem`, and `ca-key.pem`, which stays in this folder. Whoever has that
    /// key can make itself any node.
    ///
    /// # Errors
    /// When the folder holds an authority, or cannot be written.
    pub fn create(folder: &Path, validity: Validity) -> Result<Self, CertError> {
        let paths = [ROOT_FILE, ROOT_KEY_FILE].map(|file| folder.join(file));
        if let Some(path) = paths.iter().find(|path| path.exists()) {
            let path = path.clone();
            return Err(CertError::AuthorityExists { path });
        }
        let [root_path, key_path] = paths;
        std::fs::create_dir_all(folder).map_err(|e| folder::cannot_write(folder, e))?;
        let key = KeyPair::generate()?;
        let certificate = root_params(&key, validity).self_signed(&key)?;
        folder::write_new(&key_path, &key.serialize_pem(), PRIVATE)?;
        if let Err(error) = folder::write_new(&root_path, &certificate.pem(), PUBLIC) {
            // Half an authority is of no use, and would be in the way of a whole one.
            let _ = std::fs::remove_file(&key_path);
            return Err(error);
        }
        folder::sync(folder)?;
        Self::open(folder)
    }

    /// Opens an authority that [`Authority::create`] made.
    ///
    /// # Errors
    /// When a file is missing or is not what it should be, when the key is not the certificate's,
    /// or when others may read the key.
    pub fn open(folder: &Path) -> Result<Self, CertError> {
        let missing = |path| CertError::NoAuthority { path };
        let root_path = folder.join(ROOT_FILE);
        let key_path = folder.join(ROOT_KEY_FILE);
        let pem = folder::read(&root_path, missing)?;
        let key_pem = folder::read_key(&key_path, missing)?;
        let root = Read::of_pem(&root_path, &pem)?;
        let key = root.key_of_pem(&key_path, &key_pem)?;
        let key = KeyPair::try_from(&key).map_err(|error| malformed(&key_path, error))?;
        let issuer = Issuer::from_ca_cert_der(&root.der, key)
            .map_err(|error| malformed(&root_path, error))?;
        Ok(Self {
            folder: folder.to_owned(),
            not_after: root.validity()?.not_after,
            pem: String::from_utf8(pem).map_err(|error| malformed(&root_path, error))?,
            der: root.der,
            issuer,
        })
    }

    /// The folder that a node's files lie in: all of it goes to the node.
    pub fn node_folder(&self, name: &NodeName) -> PathBuf {
        self.folder.join(name.as_str())
    }

    /// Makes a node's folder: `ca.pem`, `cert.pem`, `key.pem`. The certificate ends no later than
    /// the authority (CE-4).
    ///
    /// # Errors
    /// When the node has a certificate or gets no role, when the authority has expired, or when
    /// the folder cannot be written.
    pub fn issue(
        &self,
        name: &NodeName,
        roles: &BTreeSet<Role>,
        validity: Validity,
    ) -> Result<(), CertError> {
        let folder = self.node_folder(name);
        folder::settle(&folder)?;
        let path = folder.join(CERTIFICATE_FILE);
        if path.exists() {
            let name = name.clone();
            return Err(CertError::NodeExists { name, path });
        }
        if roles.is_empty() {
            return Err(CertError::NoRoles);
        }
        let identity = Identity {
            name: name.clone(),
            roles: roles.clone(),
        };
        self.make(&folder, &identity, validity)
    }

    /// Replaces a node's certificate and key by new ones with the same name and roles (CE-3). The
    /// old certificate stays valid until its end, so nodes can be restarted one by one.
    ///
    /// # Errors
    /// When the node has no certificate, or one that this authority did not sign or that names
    /// another node; when the authority has expired; or when the folder cannot be written.
    pub fn renew(&self, name: &NodeName, validity: Validity) -> Result<(), CertError> {
        let (_, identity) = self.present(name)?;
        self.reissue(name, &identity.roles, validity)
    }

    /// As [`Authority::renew`], with these roles.
    ///
    /// # Errors
    /// As [`Authority::renew`], and when the node gets no role.
    pub fn reissue(
        &self,
        name: &NodeName,
        roles: &BTreeSet<Role>,
        validity: Validity,
    ) -> Result<(), CertError> {
        if roles.is_empty() {
            return Err(CertError::NoRoles);
        }
        let (_, present) = self.present(name)?;
        let identity = Identity {
            roles: roles.clone(),
            ..present
        };
        self.make(&self.node_folder(name), &identity, validity)
    }

    /// The certificate that a node has, whether its time is over or not, and who it says the node is.
    fn present(&self, name: &NodeName) -> Result<(CertificateDer<'static>, Identity), CertError> {
        let folder = self.node_folder(name);
        folder::settle(&folder)?;
        let path = folder.join(CERTIFICATE_FILE);
        let pem = folder::read(&path, |path| CertError::NoNode { path })?;
        let present = Read::of_pem(&path, &pem)?;
        present.check_signer(&self.root(&self.folder.join(ROOT_FILE)))?;
        let identity = identity_of(&present.der).map_err(|source| CertError::Identity {
            path: path.clone(),
            source,
        })?;
        match identity.name == *name {
            true => Ok((present.der, identity)),
            false => Err(CertError::OtherNode {
                path,
                name: name.clone(),
                found: identity.name,
            }),
        }
    }

    /// Shuts a node out (CE-6): every certificate of its name, whenever it was made. The list lies in
    /// the authority's folder, and in the folder of each node in it, where nodes take it from. The
    /// entry.
    ///
    /// # Errors
    /// When no node has this name, nor is it shut out already; when the present list cannot be used, or
    /// one cannot be written.
    pub fn revoke(&self, name: &NodeName) -> Result<Revocation, CertError> {
        let others = self.nodes()?;
        if !others.contains(name) && !Revoked::read(&self.folder)?.has_node(name) {
            return Err(CertError::Unknown {
                name: name.clone(),
                folder: self.folder.clone(),
                others,
            });
        }
        self.shut_out(Revocation::Node(name.clone()))
    }

    /// Shuts one certificate out by its number, wherever it is.
    ///
    /// # Errors
    /// When the present list cannot be used, or one cannot be written.
    pub fn revoke_serial(&self, serial: Serial) -> Result<Revocation, CertError> {
        self.shut_out(Revocation::Certificate(serial))
    }

    /// Names of the nodes that have a certificate in this folder.
    fn nodes(&self) -> Result<Vec<NodeName>, CertError> {
        let folders = self.node_folders()?.into_iter();
        let names = folders.filter_map(|folder| folder.file_name()?.to_str()?.parse().ok());
        let mut names: Vec<NodeName> = names.collect();
        names.sort();
        Ok(names)
    }

    fn node_folders(&self) -> Result<Vec<PathBuf>, CertError> {
        let cannot_list = |source| CertError::Read {
            path: self.folder.clone(),
            source,
        };
        let mut folders = Vec::new();
        for found in std::fs::read_dir(&self.folder).map_err(cannot_list)? {
            let folder = found.map_err(cannot_list)?.path();
            if folder.join(CERTIFICATE_FILE).exists() {
                folders.push(folder);
            }
        }
        Ok(folders)
    }

    /// Shuts out the certificate that a node has now. It may get another one of the same name.
    ///
    /// # Errors
    /// As [`Self::revoke`], or when the node has no certificate of this authority.
    pub fn revoke_certificate(&self, name: &NodeName) -> Result<Revocation, CertError> {
        let (certificate, _) = self.present(name)?;
        let serial = Serial::of(&certificate).ok_or_else(|| {
            let path = self.node_folder(name).join(CERTIFICATE_FILE);
            malformed(&path, "it has no serial number")
        })?;
        self.shut_out(Revocation::Certificate(serial))
    }

    fn shut_out(&self, entry: Revocation) -> Result<Revocation, CertError> {
        let mut revoked = Revoked::read(&self.folder)?;
        revoked.add(entry.clone());
        revoked.write(&self.folder)?;
        for folder in self.node_folders()? {
            revoked.write(&folder)?;
        }
        Ok(entry)
    }

    fn make(
        &self,
        folder: &Path,
        identity: &Identity,
        validity: Validity,
    ) -> Result<(), CertError> {
        let root_path = self.folder.join(ROOT_FILE);
        self.root(&root_path)
            .check_time(OffsetDateTime::now_utc())?;
        let revoked = Revoked::read(&self.folder)?;
        if revoked.has_node(&identity.name) {
            return Err(CertError::ShutOut {
                name: identity.name.clone(),
                path: self.folder.join(REVOKED_FILE),
            });
        }
        let revoked = (revoked != Revoked::default()).then(|| revoked.to_string());
        let validity = Validity {
            not_after: validity.not_after.min(self.not_after),
            ..validity
        };
        let key = KeyPair::generate()?;
        let certificate = node_params(identity, validity)?.signed_by(&key, &self.issuer)?;
        let files = NodeFiles {
            root: &self.pem,
            certificate: &certificate.pem(),
            key: &key.serialize_pem(),
            revoked: revoked.as_deref(),
        };
        folder::replace(folder, &files)
    }

    fn root<'a>(&self, path: &'a Path) -> Read<'a> {
        let der = self.der.clone();
        Read { path, der }
    }
}

fn root_params(key: &KeyPair, validity: Validity) -> CertificateParams {
    let mut params = params(validity);
    // Of two authorities by the same name TLS could only say that a signature is wrong. With the
    // key in the name it says that the authority is unknown, which tells what to do.
    let digest = Sha256::digest(key.subject_public_key_info());
    let mark: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
    let name = format!("swirl authority {mark}");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn node_params(identity: &Identity, validity: Validity) -> Result<CertificateParams, rcgen::Error> {
    let mut params = params(validity);
    let name = identity.name.as_str();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = names_of(identity)?;
    let server_name = SanType::DnsName(SERVER_NAME.try_into()?);
    params.subject_alt_names.push(server_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Every node dials some and is dialled by others.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn params(validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = validity.not_before;
    params.not_after = validity.not_after;
    params
}
