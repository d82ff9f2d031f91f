//! Settings of the C library's memory allocator, which reads them once, when a process starts.
//!
//! glibc gives large buffers back to the system after each use and has every page of them faulted in
//! anew at the next. A step allocates gigabytes of such buffers: without this a step takes 1.1 to
//! 1.2 times as long, at the same peak memory (docs/performance.md).

/// Where glibc reads its settings. One that is set by the user stays as it is.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TUNABLES: &str = "GLIBC_TUNABLES";

/// Buffers up to 4 GiB come from the heap, which gives memory back once 8 GiB at its end are free.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEEP_BUFFERS: &str =
    "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592";

/// Starts this program anew in its own place, with the settings, unless they are there. Nothing is
/// lost: it is called before anything is begun.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn restart_with_settings() {
    use std::os::unix::process::CommandExt;
    if std::env::var_os(TUNABLES).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let mut arguments = std::env::args_os();
    let mut again = std::process::Command::new(program);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    // Returns only where it failed; then the program goes on without the settings.
    let error = again.args(arguments).env(TUNABLES, KEEP_BUFFERS).exec();
    tracing::debug!(%error, "The allocator keeps its default settings.");
}

/// Other C libraries have no such settings.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn restart_with_settings() {}
