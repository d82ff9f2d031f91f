//! What can be wrong with certificates, and what to do about it.

use super::{BadIdentity, moment};
use proto::NodeName;
use std::path::PathBuf;
use time::OffsetDateTime;

/// A certificate cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The folder has an authority, and nodes may have certificates of it.
    #[error(
        "{} is there already: go on with that authority (`swirl certs issue`), or take another folder",
        .path.display()
    )]
    AuthorityExists {
        /// The file of it that was found.
        path: PathBuf,
    },
    /// The folder has no authority, or only half of one.
    #[error(
        "{} is missing: `swirl certs init` makes an authority; or name the folder that has one",
        .path.display()
    )]
    NoAuthority {
        /// The file that was looked for.
        path: PathBuf,
    },
    /// The node has a certificate.
    #[error(
        "{name} has a certificate, {}: `swirl certs renew {name}` replaces it",
        .path.display()
    )]
    NodeExists {
        /// The node.
        name: NodeName,
        /// Its certificate.
        path: PathBuf,
    },
    /// The name is shut out, and with it every certificate that it might get.
    #[error(
        "{name} is shut out by {path}: give the node another name, or take the line `node {name}` out \
         of that list, on every machine that has it",
        path = .path.display()
    )]
    ShutOut {
        /// The node.
        name: NodeName,
        /// The list.
        path: PathBuf,
    },
    /// No node of this name was given a certificate here, as far as the folder tells.
    #[error(
        "no node {name} has a certificate in {folder}{}; nothing was shut out. Where its folder was \
         removed: `swirl certs revoke --serial HEX` shuts out one certificate by its number (`openssl x509 \
         -noout -serial -in cert.pem`), and the line `node {name}` in {folder}/revoked the name",
        listed(.others),
        folder = .folder.display()
    )]
    Unknown {
        /// The node.
        name: NodeName,
        /// The authority's folder.
        folder: PathBuf,
        /// Nodes that have one.
        others: Vec<NodeName>,
    },
    /// The node's folder lacks a file.
    #[error(
        "{} is missing: `swirl certs issue` makes a node's folder, and the whole of it goes to the \
         node",
        .path.display()
    )]
    NoNode {
        /// The file that was looked for.
        path: PathBuf,
    },
    /// A node without a role may do nothing.
    #[error("a node needs a role: controller, sampler, tool, judge or learner")]
    NoRoles,
    /// A folder of one node holds the certificate of another.
    #[error(
        "{} is the certificate of {found}, not of {name}: put each node's files into its own folder",
        .path.display()
    )]
    OtherNode {
        /// The certificate.
        path: PathBuf,
        /// Whose folder it is.
        name: NodeName,
        /// Whose certificate it is.
        found: NodeName,
    },
    /// Others may read a private key, and could take the node's place.
    #[error(
        "others may read the private key {path} (mode {mode:o}): `chmod 600 {path}`, and make a new \
         one if they did",
        path = .path.display()
    )]
    OpenKey {
        /// The key.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key is not the certificate's: files of two nodes, or of two times, were mixed.
    #[error(
        "{} is not the key of {}: copy both from one folder again",
        .key.display(), .certificate.display()
    )]
    OtherKey {
        /// The key.
        key: PathBuf,
        /// The certificate.
        certificate: PathBuf,
    },
    /// Another authority signed the certificate.
    #[error(
        "{} was not signed by the authority {}: take both from one authority",
        .path.display(), .authority.display()
    )]
    OtherAuthority {
        /// The certificate.
        path: PathBuf,
        /// The authority's certificate.
        authority: PathBuf,
    },
    /// The certificate's time is over.
    #[error(
        "{} expired on {}: `swirl certs renew` makes a node's certificate anew, `swirl certs init` \
         in another folder an authority",
        .path.display(), moment(*.not_after)
    )]
    Expired {
        /// The certificate.
        path: PathBuf,
        /// Its last moment.
        not_after: OffsetDateTime,
    },
    /// The certificate's time has not come: this clock, or that of the machine that made it, is wrong.
    #[error(
        "{} is valid from {} on: set this machine's clock, or that of the machine that made it",
        .path.display(), moment(*.not_before)
    )]
    NotYetValid {
        /// The certificate.
        path: PathBuf,
        /// Its first moment.
        not_before: OffsetDateTime,
    },
    /// The certificate does not say which node it is, or not as this version says it.
    #[error("{} is no certificate of a node; `swirl certs issue` makes one", .path.display())]
    Identity {
        /// The certificate.
        path: PathBuf,
        /// What is wrong with it.
        source: BadIdentity,
    },
    /// The file is not what its name says.
    #[error("{} cannot be used: {reason}; copy or make it again", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file or folder cannot be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key or certificate cannot be made: the system gives no random numbers, say.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

fn listed(names: &[NodeName]) -> String {
    match names {
        [] => " (none has)".to_owned(),
        names => {
            let names: Vec<String> = names.iter().map(NodeName::to_string).collect();
            format!(" (these have: {})", names.join(", "))
        }
    }
}
