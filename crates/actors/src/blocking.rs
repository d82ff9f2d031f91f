//! Work that blocks.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinError;

/// Runs work that blocks, aside from tasks that wait for each other. On a runtime of one thread it is
/// done in place: a simulation's course follows from its seed only if no other thread has a part in it.
///
/// # Errors
/// When it panics on its thread.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => Ok(work()),
        _ => tokio::task::spawn_blocking(work).await,
    }
}
