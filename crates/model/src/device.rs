//! One owner thread per device: all libtorch work of the device runs there, one job after another.
//!
//! libtorch keeps a pool of OpenMP threads per calling thread, and the threads of two busy pools
//! spin against each other: on two cores a sampler and a learner that call from threads of their
//! own are tens of times slower than in turns.
//!
//! - **DEV-1 (one at a time).** Jobs run in the order in which they were accepted.
//! - **DEV-2 (a panic is an answer).** A job that panics gives its caller an error; the thread goes
//!   on with the next job.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

type Job = Box<dyn FnOnce() + Send>;

/// Why a job gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceGone {
    /// The job panicked, as libtorch's errors do. What it owned is lost; the thread goes on.
    #[error("a job on the device failed: {0}")]
    Panicked(String),
    /// The thread has ended, since the program is shutting down.
    #[error("the device's thread has ended: the program is shutting down")]
    Stopped,
}

/// The thread itself. Dropping it leaves the thread to end with its last handle.
#[derive(Debug)]
pub struct DeviceThread {
    handle: DeviceHandle,
    thread: JoinHandle<()>,
}

/// Hands jobs to the device's thread; cheap to clone.
#[derive(Debug, Clone)]
pub struct DeviceHandle {
    jobs: mpsc::Sender<Job>,
}

impl DeviceThread {
    /// Starts the thread. `name` shows up in debuggers; at most `queued_jobs` (at least 1) wait, and
    /// callers beyond that wait for room.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn spawn(name: &str, queued_jobs: usize) -> std::io::Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(queued_jobs.max(1));
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    job();
                }
            })?;
        Ok(Self {
            handle: DeviceHandle { jobs },
            thread,
        })
    }

    /// A handle; the thread lives at least as long as any of them.
    pub fn handle(&self) -> DeviceHandle {
        self.handle.clone()
    }

    /// Waits until every other handle is dropped and every accepted job has run.
    pub fn join(self) {
        drop(self.handle);
        // Jobs catch their panics, so that the thread cannot end by one.
        let _ = self.thread.join();
    }
}

impl DeviceHandle {
    /// Runs `job` on the device's thread and returns what it returns. A caller that stops waiting
    /// after its job was accepted does not stop the job.
    ///
    /// # Errors
    /// The job panicked, or the thread has ended.
    pub async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, DeviceGone> {
        let (reply, result) = oneshot::channel();
        let job = Box::new(move || {
            // The caller gets no part of what the job owned, so nothing half-changed is seen.
            let result = catch_unwind(AssertUnwindSafe(job)).map_err(|panic| message(&*panic));
            let _ = reply.send(result);
        });
        self.jobs.send(job).await.map_err(|_| DeviceGone::Stopped)?;
        result
            .await
            .map_err(|_| DeviceGone::Stopped)?
            .map_err(DeviceGone::Panicked)
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dev_1_jobs_run_in_order_on_one_thread() {
        let device = DeviceThread::spawn("device", 2).unwrap();
        let handle = device.handle();
        let first = handle.run(|| std::thread::current().id()).await.unwrap();
        let second = handle.run(|| std::thread::current().id()).await.unwrap();
        assert_eq!(first, second);
        assert_ne!(first, std::thread::current().id());
        drop(handle);
        device.join();
    }

    /// A job that panics, and a part of what it says.
    type Case = (fn() -> i64, &'static str);

    #[tokio::test]
    async fn dev_2_a_panic_is_reported_and_the_thread_lives() {
        let handle = DeviceThread::spawn("device", 1).unwrap().handle();
        let cases: [Case; 2] = [
            (|| panic!("out of {}", "memory"), "out of memory"),
            (
                || {
                    tch::Tensor::zeros([2], (tch::Kind::Float, tch::Device::Cpu))
                        .view([3])
                        .size()[0]
                },
                "shape",
            ),
        ];
        for (job, expected) in cases {
            match handle.run(job).await {
                Err(DeviceGone::Panicked(text)) => assert!(text.contains(expected), "{text}"),
                other => panic!("expected a reported panic, got {other:?}"),
            }
            assert_eq!(handle.run(|| 7).await, Ok(7));
        }
    }
}
