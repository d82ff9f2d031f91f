//! NCCL's library, found and loaded at run time, so that one program serves machines with and without.
//!
//! Types and constants are `cudarc`'s. Its own loader is not used: it knows no `libnccl.so.2`, panics
//! where a function is missing, and reads result codes as an enum, for which a code of a newer NCCL
//! would be undefined behaviour.
#![allow(unsafe_code)]

use super::symbols::symbols;
use cudarc::driver::sys::CUstream;
use cudarc::nccl::sys::{ncclComm_t, ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId};
use std::ffi::{CStr, OsStr, OsString, c_char, c_int, c_uint, c_void};
use std::fmt::{self, Debug, Display, Formatter};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names a library to take instead of those that are looked for.
pub const VARIABLE: &str = "SWIRL_NCCL";

/// `nccl.h`'s `ncclResult_t`, in which newer versions may have more values.
pub(super) type Code = c_uint;

/// Why a library cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// None of the names and places has it.
    #[error("{name} is not on this machine ({tried} were tried): {remedy}")]
    Missing {
        /// Which library.
        name: &'static str,
        /// Where it was looked for.
        tried: String,
        /// What to install, or to set.
        remedy: &'static str,
    },
    /// The system refuses to load the file.
    #[error("{path} cannot be loaded: {reason}")]
    Broken {
        /// The file.
        path: String,
        /// What the system says.
        reason: String,
    },
    /// A function is not in it: another library, or an old version.
    #[error("{path} has no function {symbol}: {remedy}")]
    Foreign {
        /// The file.
        path: String,
        /// The function.
        symbol: &'static str,
        /// What would do.
        remedy: &'static str,
    },
}

const REMEDY: &str = "install NCCL 2.14 or newer (libnccl2, or the wheel nvidia-nccl-cu13), or set \
                      SWIRL_NCCL to its libnccl.so.2";

symbols! {
    /// What is used of NCCL, as in `nccl.h`.
    Functions {
        get_version = "ncclGetVersion" (*mut c_int) -> Code;
        get_unique_id = "ncclGetUniqueId" (*mut ncclUniqueId) -> Code;
        error_string = "ncclGetErrorString" (Code) -> *const c_char;
        last_error = "ncclGetLastError" (ncclComm_t) -> *const c_char;
        init = "ncclCommInitRankConfig"
            (*mut ncclComm_t, c_int, ncclUniqueId, c_int, *mut ncclConfig_t) -> Code;
        async_error = "ncclCommGetAsyncError" (ncclComm_t, *mut Code) -> Code;
        finalize = "ncclCommFinalize" (ncclComm_t) -> Code;
        destroy = "ncclCommDestroy" (ncclComm_t) -> Code;
        abort = "ncclCommAbort" (ncclComm_t) -> Code;
        group_start = "ncclGroupStart" () -> Code;
        group_end = "ncclGroupEnd" () -> Code;
        all_reduce = "ncclAllReduce" (
            *const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, ncclComm_t, CUstream,
        ) -> Code;
        reduce = "ncclReduce" (
            *const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, c_int, ncclComm_t,
            CUstream,
        ) -> Code;
        reduce_scatter = "ncclReduceScatter" (
            *const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, ncclComm_t, CUstream,
        ) -> Code;
        broadcast = "ncclBroadcast" (
            *const c_void, *mut c_void, usize, ncclDataType_t, c_int, ncclComm_t, CUstream,
        ) -> Code;
        all_gather = "ncclAllGather"
            (*const c_void, *mut c_void, usize, ncclDataType_t, ncclComm_t, CUstream) -> Code;
    }
}

/// NCCL, loaded. It stays so until the process ends: its threads run in it.
#[derive(Clone)]
pub struct Library {
    pub(super) functions: Arc<Functions>,
    path: PathBuf,
    version: Version,
}

/// A version of NCCL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u32);

impl Display for Version {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        // The code has had two digits for the minor version since 2.9.
        let (major, rest) = match self.0 {
            code @ ..10_000 => (code / 1000, code % 1000),
            code => (code / 10_000, code % 10_000),
        };
        write!(formatter, "{major}.{}.{}", rest / 100, rest % 100)
    }
}

impl Library {
    /// The library that [`VARIABLE`] names, else the first of those that the system's loader knows,
    /// CUDA's usual folder, and libtorch's folder.
    ///
    /// # Errors
    /// When there is none, or the first that loads is not NCCL.
    pub fn find() -> Result<Self, LoadError> {
        match std::env::var_os(VARIABLE) {
            Some(path) if !path.is_empty() => Self::load(path),
            _ => Self::first_of(&candidates(libtorch().as_deref())),
        }
    }

    fn first_of(candidates: &[OsString]) -> Result<Self, LoadError> {
        if let Some((opened, name)) = first_of(candidates) {
            return Self::of(opened, &name);
        }
        let is_there = |name: &&OsString| Path::new(name).is_absolute() && Path::new(name).exists();
        match candidates.iter().find(is_there) {
            // Why it does not load says more.
            Some(file) => Self::load(file),
            None => Err(LoadError::Missing {
                name: "NCCL",
                tried: listed(candidates),
                remedy: REMEDY,
            }),
        }
    }

    /// The library in this file, or of this name.
    ///
    /// # Errors
    /// When it cannot be loaded, or is not NCCL.
    pub fn load(path: impl AsRef<OsStr>) -> Result<Self, LoadError> {
        Self::of(open(path.as_ref())?, path.as_ref())
    }

    fn of(opened: Opened, name: &OsStr) -> Result<Self, LoadError> {
        let shown = name.display().to_string();
        // SAFETY: these are the signatures in nccl.h since 2.14, and the library stays.
        let functions = unsafe { Functions::of(&opened) };
        let functions = functions.map_err(|symbol| LoadError::Foreign {
            path: shown.clone(),
            symbol,
            remedy: REMEDY,
        })?;
        let mut version = 0;
        // SAFETY: it writes one int.
        let code = unsafe { (functions.get_version)(&mut version) };
        let (0, Ok(version)) = (code, u32::try_from(version)) else {
            let reason = format!("it does not say its version (code {code})");
            return Err(LoadError::Broken {
                path: shown,
                reason,
            });
        };
        Ok(Self {
            path: file_of(functions.get_version as *const c_void).unwrap_or_else(|| name.into()),
            functions: Arc::new(functions),
            version: Version(version),
        })
    }

    /// Which NCCL it is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The file it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a code means and what went wrong last in this process, in NCCL's words.
    pub(super) fn reason(&self, code: Code) -> String {
        // SAFETY: any code may be asked for, and the communicator is not looked at; the texts are
        // NCCL's, and copied at once.
        let (meaning, last) = unsafe {
            let last = (self.functions.last_error)(std::ptr::null_mut());
            (text((self.functions.error_string)(code)), text(last))
        };
        match last.trim() {
            "" => meaning,
            last => format!("{meaning}: {last}"),
        }
    }

    /// A new unique id's bytes.
    pub(super) fn unique_id(&self) -> Result<[u8; 128], Code> {
        let mut id = ncclUniqueId { internal: [0; 128] };
        // SAFETY: it writes one id.
        match unsafe { (self.functions.get_unique_id)(&mut id) } {
            0 => Ok(id.internal.map(|byte| byte as u8)),
            code => Err(code),
        }
    }
}

impl Debug for Library {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "NCCL {} ({})", self.version, self.path.display())
    }
}

/// A library that is never closed.
pub(super) type Opened = ManuallyDrop<libloading::Library>;

pub(super) fn open(name: &OsStr) -> Result<Opened, LoadError> {
    // SAFETY: what runs when these libraries are loaded is NVIDIA's, or what the user has named.
    match unsafe { libloading::Library::new(name) } {
        Ok(library) => Ok(ManuallyDrop::new(library)),
        Err(error) => Err(LoadError::Broken {
            path: name.display().to_string(),
            reason: error.to_string(),
        }),
    }
}

/// The first of these that loads, and its name.
pub(super) fn first_of(candidates: &[OsString]) -> Option<(Opened, OsString)> {
    candidates
        .iter()
        .find_map(|name| Some((open(name).ok()?, name.clone())))
}

/// Names for a message.
pub(super) fn listed(candidates: &[OsString]) -> String {
    let names: Vec<String> = candidates.iter().map(|n| n.display().to_string()).collect();
    names.join(", ")
}

/// libtorch's folder: that of the environment, else the one this program was built with.
fn libtorch() -> Option<PathBuf> {
    let set = std::env::var_os("LIBTORCH").map(PathBuf::from);
    set.or_else(|| option_env!("LIBTORCH").map(PathBuf::from))
}

/// Plain names come first: where libtorch with CUDA is loaded, they lead to the NCCL it has loaded.
fn candidates(libtorch: Option<&Path>) -> Vec<OsString> {
    let names = ["libnccl.so.2", "libnccl.so"];
    let folders = [
        Some(PathBuf::from("/usr/local/cuda/lib64")),
        libtorch.map(|folder| folder.join("lib")),
    ];
    let in_folders = folders.into_iter().flatten();
    let in_folders = in_folders.flat_map(|folder| names.map(|name| folder.join(name).into()));
    names
        .map(OsString::from)
        .into_iter()
        .chain(in_folders)
        .collect()
}

/// The file that has this function.
fn file_of(function: *const c_void) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: all fields are pointers, which may be null.
    let mut found: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: it takes any address and fills the structure.
    let is_found = unsafe { libc::dladdr(function, &mut found) } != 0;
    if !is_found || found.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the name belongs to the library, which is never closed.
    let name = unsafe { CStr::from_ptr(found.dli_fname) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

/// # Safety
/// `text` is null or ends with a NUL.
pub(super) unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: promised above.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_nccl_writes_them() {
        let cases = [(22_907, "2.29.7"), (21_403, "2.14.3"), (2_804, "2.8.4")];
        for (code, expected) in cases {
            assert_eq!(Version(code).to_string(), expected);
        }
    }

    #[test]
    fn a_machine_without_nccl_gets_one_error_that_says_what_to_install() {
        let nowhere = [OsString::from("/nowhere/libnccl.so.2")];
        let error = Library::first_of(&nowhere).unwrap_err().to_string();
        for part in [
            "NCCL is not on this machine",
            "/nowhere/libnccl.so.2",
            "install NCCL",
            VARIABLE,
        ] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn another_library_or_no_library_is_told_from_nccl() {
        let foreign = Library::load("libm.so.6").unwrap_err();
        let symbol = "ncclGetVersion";
        assert!(matches!(foreign, LoadError::Foreign { symbol: s, .. } if s == symbol));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("libnccl.so.2");
        std::fs::write(&file, "no library").unwrap();
        let broken = Library::load(&file).unwrap_err();
        let looked_for = Library::first_of(&["libnone.so".into(), file.clone().into()]);
        assert_eq!(looked_for.map(drop).unwrap_err(), broken);
        let path = file.display().to_string();
        assert!(
            matches!(&broken, LoadError::Broken { path: p, .. } if *p == path),
            "{broken}"
        );
    }

    #[test]
    fn the_loader_s_names_come_before_folders() {
        let found = candidates(Some(Path::new("/opt/libtorch")));
        assert_eq!(found[0], "libnccl.so.2");
        assert_eq!(found[4], "/opt/libtorch/lib/libnccl.so.2");
        assert_eq!(candidates(None).len(), 4);
    }
}
