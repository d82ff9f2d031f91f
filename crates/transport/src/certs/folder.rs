//! Files of certificates and keys on disk.

use super::{CERTIFICATE_FILE, CertError, KEY_FILE, REVOKED_FILE, ROOT_FILE, acl};
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Mode of a private key.
pub(super) const PRIVATE: u32 = 0o600;
/// Mode of what everybody may see.
pub(super) const PUBLIC: u32 = 0o644;
/// Permission bits of group and others.
const OTHERS: u32 = 0o077;
/// Of these, the group may read; where a file has an ACL, somebody in the ACL may.
const GROUP_READS: u32 = 0o040;
/// Where systemd says that it puts a service's credentials, which that service alone can reach.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// What lies in a node's folder, each as PEM.
pub(super) struct NodeFiles<'a> {
    /// The authority's certificate.
    pub root: &'a str,
    /// The node's certificate.
    pub certificate: &'a str,
    /// The node's private key.
    pub key: &'a str,
    /// The list of certificates that are shut out, if there is one.
    pub revoked: Option<&'a str>,
}

/// Reads a file; `missing` is the error where there is none.
pub(super) fn read(path: &Path, missing: fn(PathBuf) -> CertError) -> Result<Vec<u8>, CertError> {
    read_from(&open(path, missing)?, path)
}

/// Reads a private key (CE-2).
pub(super) fn read_key(
    path: &Path,
    missing: fn(PathBuf) -> CertError,
) -> Result<Vec<u8>, CertError> {
    let file = open(path, missing)?;
    // Of the open file, so that it is this one's mode that is looked at.
    let metadata = file.metadata().map_err(|e| cannot_read(path, e))?;
    let credentials = std::env::var_os(CREDENTIALS_DIRECTORY).map(PathBuf::from);
    if !is_private(&file, &metadata, path, credentials.as_deref()) {
        let mode = metadata.permissions().mode() & 0o7777;
        let path = path.to_owned();
        return Err(CertError::OpenKey { path, mode });
    }
    read_from(&file, path)
}

/// Whether this process's user alone, beside root, can read a key. systemd from version 254 on hands
/// credentials over as root's, with an ACL for the service's user: the mode reads 0440 then.
fn is_private(file: &File, metadata: &Metadata, path: &Path, credentials: Option<&Path>) -> bool {
    match metadata.permissions().mode() & OTHERS {
        0 => true,
        GROUP_READS => {
            let is_below = |folder: &Path| {
                let found = path.canonicalize().ok();
                let folder = folder.canonicalize().ok();
                found.is_some_and(|found| folder.is_some_and(|folder| found.starts_with(folder)))
            };
            let is_roots = metadata.uid() == 0;
            credentials.is_some_and(is_below) || is_roots && acl::is_for_this_user_alone(file)
        }
        _ => false,
    }
}

/// Writes a file that must not be there yet.
pub(super) fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CertError> {
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|e| cannot_write(path, e))
}

/// Writes a file in the place of one that may be there.
pub(super) fn replace_file(path: &Path, text: &str, mode: u32) -> Result<(), CertError> {
    let new = beside(path, "new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(cannot_write(&new, error)),
        _ => {}
    }
    write_new(&new, text, mode)?;
    rename(&new, path)?;
    sync(path.parent().unwrap_or(Path::new(".")))
}

/// Makes the folder with these files, in the place of one that may be there (CE-3). What else lay
/// in that one is kept.
///
/// Linux cannot rename a folder over one with files in it, so the old one steps aside first.
pub(super) fn replace(folder: &Path, files: &NodeFiles<'_>) -> Result<(), CertError> {
    let new = beside(folder, "new");
    let old = beside(folder, "old");
    remove(&new)?;
    fs::create_dir_all(&new).map_err(|e| cannot_write(&new, e))?;
    write_new(&new.join(KEY_FILE), files.key, PRIVATE)?;
    write_new(&new.join(CERTIFICATE_FILE), files.certificate, PUBLIC)?;
    write_new(&new.join(ROOT_FILE), files.root, PUBLIC)?;
    if let Some(revoked) = files.revoked {
        write_new(&new.join(REVOKED_FILE), revoked, PUBLIC)?;
    }
    sync(&new)?;
    if folder.exists() {
        rename(folder, &old)?;
    }
    if let Err(error) = rename(&new, folder) {
        settle(folder)?;
        return Err(error);
    }
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync(parent)?,
        _ => sync(Path::new("."))?,
    }
    settle(folder)
}

/// Ends what a [`replace`] that was stopped left behind.
pub(super) fn settle(folder: &Path) -> Result<(), CertError> {
    let old = beside(folder, "old");
    if !old.exists() {
        return Ok(());
    }
    if !folder.exists() {
        return rename(&old, folder);
    }
    for entry in fs::read_dir(&old).map_err(|e| cannot_read(&old, e))? {
        let entry = entry.map_err(|e| cannot_read(&old, e))?;
        let kept = folder.join(entry.file_name());
        if !kept.exists() {
            rename(&entry.path(), &kept)?;
        }
    }
    remove(&old)
}

/// A folder's name while it comes or goes. No node's name begins with a dot.
fn beside(folder: &Path, what: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(folder.file_name().unwrap_or_default());
    name.push(".");
    name.push(what);
    folder.with_file_name(name)
}

fn open(path: &Path, missing: fn(PathBuf) -> CertError) -> Result<File, CertError> {
    File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => missing(path.to_owned()),
        _ => cannot_read(path, error),
    })
}

fn read_from(mut file: &File, path: &Path) -> Result<Vec<u8>, CertError> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .map_err(|e| cannot_read(path, e))?;
    Ok(bytes)
}

fn rename(from: &Path, to: &Path) -> Result<(), CertError> {
    fs::rename(from, to).map_err(|e| cannot_write(to, e))
}

/// Removes a folder that may not be there.
fn remove(folder: &Path) -> Result<(), CertError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(cannot_write(folder, error)),
        _ => Ok(()),
    }
}

/// Makes the names in a folder last.
pub(super) fn sync(folder: &Path) -> Result<(), CertError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|e| cannot_write(folder, e))
}

fn cannot_read(path: &Path, source: std::io::Error) -> CertError {
    let path = path.to_owned();
    CertError::Read { path, source }
}

pub(super) fn cannot_write(path: &Path, source: std::io::Error) -> CertError {
    let path = path.to_owned();
    CertError::Write { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 3] = [ROOT_FILE, CERTIFICATE_FILE, KEY_FILE];

    fn files(text: &str) -> NodeFiles<'_> {
        NodeFiles {
            root: text,
            certificate: text,
            key: text,
            revoked: None,
        }
    }

    fn holds(folder: &Path, text: &str) {
        for file in FILES {
            assert_eq!(fs::read_to_string(folder.join(file)).unwrap(), text);
        }
    }

    #[test]
    fn ce_2_only_one_who_asks_for_more_than_systemd_gives_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let file = File::create(&path).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let cases = [
            (0o400, None, true),
            (0o440, None, false),
            (0o440, Some(dir.path()), true),
            (0o440, Some(elsewhere.path()), false),
            (0o444, Some(dir.path()), false),
            (0o460, Some(dir.path()), false),
        ];
        for (mode, credentials, is_fit) in cases {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let metadata = file.metadata().unwrap();
            let found = is_private(&file, &metadata, &path, credentials);
            assert_eq!(found, is_fit, "{mode:o} {credentials:?}");
        }
    }

    #[test]
    fn ce_3_a_folder_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a");
        replace(&folder, &files("1")).unwrap();
        fs::write(folder.join("note"), "mine").unwrap();
        replace(&folder, &files("2")).unwrap();
        holds(&folder, "2");
        assert_eq!(fs::read_to_string(folder.join("note")).unwrap(), "mine");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn ce_3_a_stop_at_any_step_leaves_a_pair() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a");
        let (new, old) = (beside(&folder, "new"), beside(&folder, "old"));
        replace(&folder, &files("1")).unwrap();

        // Before the swap, in the middle of writing.
        fs::create_dir(&new).unwrap();
        fs::write(new.join(KEY_FILE), "half").unwrap();
        settle(&folder).unwrap();
        holds(&folder, "1");

        // Between the two renames.
        fs::rename(&folder, &old).unwrap();
        settle(&folder).unwrap();
        holds(&folder, "1");

        // After the swap, before the old folder was cleared away.
        fs::rename(&folder, &old).unwrap();
        fs::write(old.join("note"), "mine").unwrap();
        fs::remove_dir_all(&new).unwrap();
        fs::create_dir(&folder).unwrap();
        for file in FILES {
            fs::write(folder.join(file), "2").unwrap();
        }
        settle(&folder).unwrap();
        holds(&folder, "2");
        assert!(folder.join("note").exists() && !old.exists());
    }
}
