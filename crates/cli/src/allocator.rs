//! The allocator of the whole process.
//!
//! libtorch's buffers come from it too. The C library's allocator gives large buffers back to the
//! system after each use and has every page of them faulted in anew; a step allocates gigabytes of
//! such buffers (docs/performance.md). The settings are in `.cargo/config.toml`.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Bytes of the pages that this process has freed, and that its allocator keeps for it.
pub fn freed() -> Result<u64, tikv_jemalloc_ctl::Error> {
    let pages = Pages::now()?;
    Ok(pages.resident.saturating_sub(pages.used) as u64)
}

/// Bytes of pages.
struct Pages {
    /// Held from the system.
    resident: usize,
    /// Of them, those in use.
    used: usize,
}

impl Pages {
    fn now() -> Result<Self, tikv_jemalloc_ctl::Error> {
        use tikv_jemalloc_ctl::{epoch, stats};
        epoch::advance()?;
        Ok(Self {
            resident: stats::resident::read()?,
            used: stats::active::read()? + stats::metadata::read()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// A buffer whose pages are all there.
    fn buffer(size: usize) -> Vec<u8> {
        vec![1; size]
    }

    #[test]
    fn memory_of_a_large_buffer_is_used_again_for_small_ones() {
        drop(buffer(256 * MIB));
        let before = Pages::now().unwrap().resident;
        for _ in 0..16 {
            let parts: Vec<_> = (0..128).map(|_| buffer(MIB)).collect();
            drop(parts);
        }
        let after = Pages::now().unwrap().resident;
        // Without the setting each round takes 128 MiB more.
        assert!(
            after < before + 512 * MIB,
            "{} MiB have become {}: see .cargo/config.toml",
            before / MIB,
            after / MIB
        );
    }

    #[test]
    fn freed_pages_are_kept_and_counted() {
        drop(buffer(256 * MIB));
        assert!(freed().unwrap() > 128 * MIB as u64);
    }
}
