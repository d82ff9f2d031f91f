//! Access control lists of files, as far as keys need them (acl(5)).

use std::fs::File;

/// Where Linux keeps a file's list: a version of four bytes, then entries of eight, little-endian.
const NAME: &str = "system.posix_acl_access";
const VERSION: [u8; 4] = [2, 0, 0, 0];

const USER: u16 = 0x02;
const GROUP_OWNER: u16 = 0x04;
const GROUP: u16 = 0x08;
const OTHER: u16 = 0x20;

/// More than any list of a key takes; a longer one is nobody's that is known.
const MOST_BYTES: usize = 4096;

/// Whether a file has a list that lets this process's user in, beside the owner, and nobody else. The
/// group's bits in the file's mode are the list's mask then.
pub(super) fn is_for_this_user_alone(file: &File) -> bool {
    let mut list = vec![0; MOST_BYTES];
    match rustix::fs::fgetxattr(file, NAME, list.as_mut_slice()) {
        Ok(len) => lets_in_alone(&list[..len], rustix::process::geteuid().as_raw()),
        Err(_) => false,
    }
}

fn lets_in_alone(list: &[u8], user: u32) -> bool {
    let Some(entries) = list.strip_prefix(&VERSION) else {
        return false;
    };
    let is_fit = |entry: &[u8]| {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let bits = u16::from_le_bytes([entry[2], entry[3]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        match tag {
            USER => bits == 0 || id == user || id == 0,
            GROUP_OWNER | GROUP | OTHER => bits == 0,
            // The owner, and the mask, which gives nothing by itself.
            _ => true,
        }
    };
    !entries.is_empty() && entries.len() % 8 == 0 && entries.chunks_exact(8).all(is_fit)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const OWNER: u16 = 0x01;
    const MASK: u16 = 0x10;
    const NO_ID: u32 = u32::MAX;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut list = VERSION.to_vec();
        for (tag, bits, id) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(bits.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        list
    }

    /// As systemd writes it for the user 61234.
    fn systemds(user: u32) -> Vec<(u16, u16, u32)> {
        vec![
            (OWNER, 4, NO_ID),
            (USER, 4, user),
            (GROUP_OWNER, 0, NO_ID),
            (MASK, 4, NO_ID),
            (OTHER, 0, NO_ID),
        ]
    }

    #[test]
    fn a_list_is_for_one_user_or_not() {
        assert!(lets_in_alone(&list(&systemds(61234)), 61234));
        assert!(!lets_in_alone(&list(&systemds(61234)), 1000));
        let more = [
            (USER, 4, 7),
            (GROUP, 4, 7),
            (GROUP_OWNER, 4, NO_ID),
            (OTHER, 4, NO_ID),
        ];
        for entry in more {
            let mut entries = systemds(61234);
            entries.push(entry);
            assert!(!lets_in_alone(&list(&entries), 61234), "{entry:?}");
        }
        let broken: [&[u8]; 3] = [b"", &VERSION, &[2, 0, 0, 0, 1, 0]];
        for list in broken {
            assert!(!lets_in_alone(list, 0), "{list:?}");
        }
    }

    /// With a real list, where the file system has them and this user may set them.
    #[test]
    fn ce_2_a_key_that_systemd_hands_over_is_read() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        std::fs::write(&path, "key").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        let file = File::open(&path).unwrap();
        let user = rustix::process::geteuid().as_raw();
        let set =
            |list: &[u8]| rustix::fs::fsetxattr(&file, NAME, list, rustix::fs::XattrFlags::empty());
        if file.metadata().unwrap().uid() != 0 || set(&list(&systemds(user))).is_err() {
            println!("skipped: needs root, and a file system with access control lists");
            return;
        }
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o440);
        let missing = |path| super::super::CertError::NoNode { path };
        let read = || super::super::folder::read_key(&path, missing);
        assert_eq!(read().unwrap(), b"key");
        // Whoever else may read it ends that.
        let mut others = systemds(user);
        others[1].2 = 12345;
        set(&list(&others)).unwrap();
        assert!(read().is_err());
    }
}
