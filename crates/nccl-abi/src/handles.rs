//! Tables of what is open.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

/// Calls with handles that are not open, or in a state that forbids them.
pub static MISUSES: AtomicU64 = AtomicU64::new(0);

/// Numbers of handles; one sequence for all tables, so that no handle passes for another.
static NEXT: AtomicU64 = AtomicU64::new(0x1000);

/// Counts a call that NCCL or CUDA forbid.
pub fn misuse(what: &str) {
    eprintln!("nccl-abi: {what}");
    MISUSES.fetch_add(1, Ordering::SeqCst);
}

/// Locks, whoever panicked before.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What is open, by handle.
pub struct Table<T>(LazyLock<Mutex<HashMap<u64, Arc<T>>>>);

impl<T> Table<T> {
    pub const fn new() -> Self {
        Self(LazyLock::new(Mutex::default))
    }

    pub fn open(&self, entry: T) -> u64 {
        let handle = NEXT.fetch_add(16, Ordering::SeqCst);
        lock(&self.0).insert(handle, Arc::new(entry));
        handle
    }

    pub fn get(&self, handle: u64) -> Option<Arc<T>> {
        let found = lock(&self.0).get(&handle).cloned();
        if found.is_none() {
            misuse("a handle that is not open");
        }
        found
    }

    pub fn close(&self, handle: u64) -> Option<Arc<T>> {
        let found = lock(&self.0).remove(&handle);
        if found.is_none() {
            misuse("a handle that is closed and not open");
        }
        found
    }

    pub fn len(&self) -> usize {
        lock(&self.0).len()
    }
}
