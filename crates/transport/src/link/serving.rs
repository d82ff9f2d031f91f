//! The peer's requests and this side's answers.

use super::{Handler, LinkFault, Request, Shared};
use crate::connection::Incoming;
use crate::frame::{Decoder, Frame, Header, What};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

type Outcome = Result<Bytes, String>;

/// Longest reason of a refusal, in bytes.
const REASON_BYTES: usize = 64 << 10;

struct Serving {
    shared: Arc<Shared>,
    handler: Arc<dyn Handler>,
    places: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    running: Arc<Running>,
}

/// Work under way, by the number of its request. What is left when the link ends is stopped.
#[derive(Default)]
struct Running(Mutex<BTreeMap<u64, AbortHandle>>);

impl Running {
    fn remove(&self, number: u64) -> Option<AbortHandle> {
        self.0.lock().expect("no holder panics").remove(&number)
    }

    fn stop_all(&self) {
        for work in std::mem::take(&mut *self.0.lock().expect("no holder panics")).into_values() {
            work.abort();
        }
    }
}

/// Stops what is left whichever way the reading task ends, being aborted included.
struct StopAll(Arc<Running>);

impl Drop for StopAll {
    fn drop(&mut self) {
        self.0.stop_all();
    }
}

/// What a request holds while it is worked on.
type Room = (OwnedSemaphorePermit, OwnedSemaphorePermit);

pub(super) async fn serve(
    shared: Arc<Shared>,
    mut incoming: Box<dyn Incoming>,
    handler: Arc<dyn Handler>,
) -> Result<(), LinkFault> {
    let limits = shared.limits;
    let bytes = limits.request_bytes.min(u32::MAX as usize);
    let serving = Serving {
        shared,
        handler,
        places: Arc::new(Semaphore::new(limits.requests)),
        bytes: Arc::new(Semaphore::new(bytes)),
        running: Arc::default(),
    };
    let _stop = StopAll(serving.running.clone());
    let mut decoder = Decoder::new(limits.body_bytes);
    while let Some(chunk) = incoming.receive().await? {
        decoder.push(chunk);
        while let Some(frame) = decoder.next()? {
            serving.frame(frame).await?;
        }
    }
    Ok(decoder.end()?)
}

impl Serving {
    async fn frame(&self, Frame { header, body }: Frame) -> Result<(), LinkFault> {
        match header.what {
            What::Request => self.request(header, body).await,
            What::Cast => {
                let cast = AssertUnwindSafe(self.handler.cast(header.method, body));
                if cast.catch_unwind().await.is_err() {
                    tracing::error!(method = header.method, "A one-way message was given up.");
                }
            }
            What::Cancel => {
                if let Some(work) = self.running.remove(header.number) {
                    work.abort();
                }
            }
            what @ (What::Answer | What::Refusal) => return Err(LinkFault::Misplaced(what)),
        }
        Ok(())
    }

    /// Begins a request, once there is room.
    async fn request(&self, header: Header, body: Bytes) {
        let room = self.room(body.len()).await;
        let method = header.method;
        let is_quick = self.handler.is_quick(method);
        let handler = self.handler.clone();
        let mut work: BoxFuture<'static, Outcome> = async move {
            let answer = AssertUnwindSafe(handler.request(Request { method, body }));
            let caught = answer.catch_unwind().await;
            caught.unwrap_or_else(|_| Err("it failed inside: see the peer's log".to_owned()))
        }
        .boxed();
        if is_quick && let Some(outcome) = work.as_mut().now_or_never() {
            answer(&self.shared, header.number, outcome).await;
            return;
        }
        self.go_on(header, work, room);
    }

    fn go_on(&self, header: Header, work: BoxFuture<'static, Outcome>, room: Room) {
        let (shared, running, number) = (self.shared.clone(), self.running.clone(), header.number);
        // The lock is held until the task is registered, so that it cannot end before.
        let mut by_number = self.running.0.lock().expect("no holder panics");
        let task = self.shared.work.spawn(async move {
            let outcome = match header.deadline_ms {
                0 => Some(work.await),
                ms => {
                    let limit = Duration::from_millis(ms.into());
                    tokio::time::timeout(limit, work).await.ok()
                }
            };
            // Past its deadline nobody waits for it.
            if let Some(outcome) = outcome {
                answer(&shared, number, outcome).await;
            }
            running.remove(number);
            drop(room);
        });
        by_number.insert(number, task.abort_handle());
    }

    async fn room(&self, body: usize) -> Room {
        let all = self.shared.limits.request_bytes;
        let bytes = body.min(all).min(u32::MAX as usize) as u32;
        let places = self.places.clone().acquire_owned().await;
        let bytes = self.bytes.clone().acquire_many_owned(bytes).await;
        let never = "these semaphores are never closed";
        (places.expect(never), bytes.expect(never))
    }
}

async fn answer(shared: &Shared, number: u64, outcome: Outcome) {
    let header = |what| Header {
        what,
        method: 0,
        deadline_ms: 0,
        number,
    };
    let max = shared.limits.body_bytes;
    // A queue that is closed has nobody at its other end.
    let _ = match outcome {
        Ok(body) if body.len() <= max => shared.answers.push(header(What::Answer), &body).await,
        Ok(body) => {
            let reason = format!(
                "the answer has {} bytes, and {max} are allowed in one message",
                body.len()
            );
            let refusal = header(What::Refusal);
            shared.answers.push(refusal, reason.as_bytes()).await
        }
        Err(reason) => {
            let end = reason.len().min(REASON_BYTES);
            let refusal = header(What::Refusal);
            shared
                .answers
                .push(refusal, &reason.as_bytes()[..end])
                .await
        }
    };
}
