//! Hashing and compressing on several threads.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Threads that hash and compress, at most.
const MOST_THREADS: usize = 8;

/// Chunks for which another thread is worth it.
const CHUNKS_A_THREAD: usize = 8;

/// The same for each index, on as many threads as are worth it; the results in order.
pub(super) fn on_threads<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = cores.min(MOST_THREADS).min(count / CHUNKS_A_THREAD).max(1);
    if threads == 1 {
        return (0..count).map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let share = || {
        let taken = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        let taken = taken.take_while(|index| *index < count);
        taken.map(|index| (index, work(index))).collect::<Vec<_>>()
    };
    let mut done: Vec<(usize, T)> = std::thread::scope(|scope| {
        let shares: Vec<_> = (0..threads).map(|_| scope.spawn(share)).collect();
        let shares = shares.into_iter().map(|share| share.join());
        shares
            .flat_map(|share| share.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, value)| value).collect()
}
