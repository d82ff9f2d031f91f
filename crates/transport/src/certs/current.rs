//! A node's credentials as its folder has them now: certificates are renewed while a run goes on.

use super::revoked::Revoked;
use super::{CERTIFICATE_FILE, CertError, Credentials};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// The newest credentials of a node. Clones are the same; whoever makes a connection takes them from
/// here each time.
#[derive(Debug, Clone)]
pub struct CurrentCredentials {
    newest: watch::Sender<Arc<Credentials>>,
    /// Where newer ones come from; none where they stay as they are.
    folder: Option<PathBuf>,
}

impl CurrentCredentials {
    /// Those of a node's folder.
    ///
    /// # Errors
    /// As [`Credentials::load`].
    pub fn open(folder: &Path) -> Result<Self, CertError> {
        let credentials = Credentials::load(folder)?;
        Ok(Self {
            folder: Some(folder.to_owned()),
            ..Self::from(credentials)
        })
    }

    /// The newest.
    pub fn get(&self) -> Arc<Credentials> {
        self.newest.borrow().clone()
    }

    /// Tells of each change.
    pub fn changes(&self) -> watch::Receiver<Arc<Credentials>> {
        self.newest.subscribe()
    }

    /// Looks into the folder again, and takes what is new there: certificate, key, authority, and the
    /// list of those that are shut out. Whether anything is new. Blocks on the disk.
    ///
    /// # Errors
    /// As [`Credentials::load`], or when the certificate is another node's. What was there before stays
    /// in use then; the list is taken all the same, where it can be read.
    pub fn look(&self) -> Result<bool, CertError> {
        let Some(folder) = &self.folder else {
            return Ok(false);
        };
        let present = self.get();
        let revoked = Revoked::read(folder)?;
        let (next, fault) = match Credentials::load(folder) {
            Ok(next) if next.identity().name == present.identity().name => (next, None),
            Ok(next) => {
                let fault = CertError::OtherNode {
                    path: folder.join(CERTIFICATE_FILE),
                    name: present.identity().name.clone(),
                    found: next.identity().name.clone(),
                };
                (present.with_revoked(revoked), Some(fault))
            }
            Err(fault) => (present.with_revoked(revoked), Some(fault)),
        };
        let is_new = !next.is_same(&present);
        if is_new {
            self.newest.send_replace(Arc::new(next));
        }
        fault.map_or(Ok(is_new), Err)
    }
}

impl From<Arc<Credentials>> for CurrentCredentials {
    /// They stay as they are.
    fn from(credentials: Arc<Credentials>) -> Self {
        Self {
            newest: watch::Sender::new(credentials),
            folder: None,
        }
    }
}

impl From<Credentials> for CurrentCredentials {
    fn from(credentials: Credentials) -> Self {
        Arc::new(credentials).into()
    }
}
