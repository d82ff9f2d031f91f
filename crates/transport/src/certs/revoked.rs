//! Certificates that are shut out although they are valid.
//!
//! The list lies beside a node's certificate as `revoked`, one entry a line: `node NAME` shuts out
//! every certificate of that name, `serial HEX` one certificate. `#` begins a comment.

use super::checks::malformed;
use super::folder::{self, PUBLIC};
use super::{CertError, REVOKED_FILE, identity_of};
use proto::NodeName;
use rustls::pki_types::CertificateDer;
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// The serial number of a certificate, without leading zeros.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// That of a certificate; none where it is no certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        Some(Self::of_bytes(parsed.raw_serial()))
    }

    fn of_bytes(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Self(bytes[zeros..].to_vec())
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Serial {
    type Err = String;

    /// Hexadecimal digits, with or without colons, as `openssl x509 -serial` prints them.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut digits = text.replace(':', "");
        if digits.len() % 2 == 1 {
            digits.insert(0, '0');
        }
        let is_hex = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let bad = || format!("{text:?} is no serial number: take hexadecimal digits");
        let pair = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| bad());
        match is_hex {
            true => {
                let bytes: Result<Vec<u8>, String> =
                    (0..digits.len()).step_by(2).map(pair).collect();
                Ok(Self::of_bytes(&bytes?))
            }
            false => Err(bad()),
        }
    }
}

/// Which certificates are shut out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked {
    nodes: BTreeSet<NodeName>,
    serials: BTreeSet<Serial>,
}

/// An entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocation {
    /// Every certificate of a name, whenever it was made.
    Node(NodeName),
    /// One certificate.
    Certificate(Serial),
}

impl FromStr for Revocation {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["node", name] => {
                let name = name.parse::<NodeName>();
                Ok(Self::Node(name.map_err(|error| error.to_string())?))
            }
            ["serial", serial] => Ok(Self::Certificate(serial.parse()?)),
            _ => Err(format!(
                "{line:?} is no entry: write `node NAME` or `serial HEX`"
            )),
        }
    }
}

impl fmt::Display for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::Certificate(serial) => write!(f, "serial {serial}"),
        }
    }
}

impl Revoked {
    /// The list of a folder; empty where there is none.
    ///
    /// # Errors
    /// When it cannot be read, or a line is no entry: a list that is half understood shuts out less
    /// than it says.
    pub fn read(folder: &Path) -> Result<Self, CertError> {
        let path = folder.join(REVOKED_FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map_err(|reason| malformed(&path, reason)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(CertError::Read { path, source }),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut revoked = Self::default();
        for (number, line) in text.lines().enumerate() {
            let entry = line.split('#').next().unwrap_or_default().trim();
            if entry.is_empty() {
                continue;
            }
            let entry = entry.parse::<Revocation>();
            revoked.add(entry.map_err(|error| format!("line {}: {error}", number + 1))?);
        }
        Ok(revoked)
    }

    /// Adds an entry; whether it is new.
    pub fn add(&mut self, entry: Revocation) -> bool {
        match entry {
            Revocation::Node(name) => self.nodes.insert(name),
            Revocation::Certificate(serial) => self.serials.insert(serial),
        }
    }

    /// Whether a name is shut out, whatever certificate it gets.
    pub fn has_node(&self, name: &NodeName) -> bool {
        self.nodes.contains(name)
    }

    /// Whether a certificate is shut out.
    pub fn covers(&self, certificate: &CertificateDer<'_>) -> bool {
        let is_empty = self.nodes.is_empty() && self.serials.is_empty();
        let named = || identity_of(certificate).is_ok_and(|found| self.has_node(&found.name));
        let numbered = || Serial::of(certificate).is_some_and(|s| self.serials.contains(&s));
        !is_empty && (named() || numbered())
    }

    /// Writes the list of a folder, in the place of the one before it.
    pub(super) fn write(&self, folder: &Path) -> Result<(), CertError> {
        folder::replace_file(&folder.join(REVOKED_FILE), &self.to_string(), PUBLIC)
    }
}

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Certificates that are shut out: `node NAME` or `serial HEX`, one a line."
        )?;
        let nodes = self.nodes.iter().cloned().map(Revocation::Node);
        let serials = self.serials.iter().cloned().map(Revocation::Certificate);
        nodes
            .chain(serials)
            .try_for_each(|entry| writeln!(f, "{entry}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_is_written() {
        let text = "# mine\n\nnode gpu-1 # stolen\n  serial 00:AB:cd\nserial abc\n";
        let revoked = Revoked::parse(text).unwrap();
        assert!(revoked.has_node(&"gpu-1".parse().unwrap()));
        assert!(!revoked.has_node(&"gpu-2".parse().unwrap()));
        let serials: Vec<_> = revoked.serials.iter().map(Serial::to_string).collect();
        assert_eq!(serials, ["0abc", "abcd"]);
        assert_eq!(Revoked::parse(&revoked.to_string()).unwrap(), revoked);
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        for (line, word) in [
            ("gpu-1", "no entry"),
            ("node GPU", "no name"),
            ("node a b", "no entry"),
            ("serial xyz", "hexadecimal"),
            ("serial :", "hexadecimal"),
        ] {
            let error = Revoked::parse(&format!("node a\n{line}\n")).unwrap_err();
            assert!(
                error.starts_with("line 2: ") && error.contains(word),
                "{error}"
            );
        }
    }
}
