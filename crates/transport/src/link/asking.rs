//! This side's requests and what becomes of them.

use super::queue::Queue;
use super::{CallError, LinkFault};
use crate::connection::Incoming;
use crate::frame::{Decoder, Header, What};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

type Answer = Result<Bytes, CallError>;

pub(super) struct Asking {
    pub(super) requests: Queue,
    next: AtomicU64,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    by_number: BTreeMap<u64, oneshot::Sender<Answer>>,
    /// Why no answer will come any more.
    ended: Option<String>,
}

impl Asking {
    pub(super) fn new(queued_bytes: usize) -> Self {
        Self {
            requests: Queue::new(queued_bytes),
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
        }
    }

    pub(super) async fn call(&self, method: u8, body: &[u8], limit: Duration) -> Answer {
        let header = Header {
            what: What::Request,
            method,
            deadline_ms: u32::try_from(limit.as_millis()).unwrap_or(0),
            number: self.next.fetch_add(1, Ordering::Relaxed),
        };
        let answered = async {
            let (mut call, answer) = Call::register(self, header.number)?;
            let sent = self.requests.push(header, body).await;
            sent.map_err(|_| CallError::NotSent(self.end_reason()))?;
            call.is_sent = true;
            let answer = answer.await;
            call.is_sent = false;
            answer.unwrap_or_else(|_| Err(CallError::Lost(self.end_reason())))
        };
        match tokio::time::timeout(limit, answered).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::TimedOut(limit)),
        }
    }

    pub(super) async fn cast(&self, method: u8, body: &[u8]) -> Result<(), CallError> {
        let header = Header {
            what: What::Cast,
            method,
            deadline_ms: 0,
            number: 0,
        };
        let sent = self.requests.push(header, body).await;
        sent.map_err(|_| CallError::NotSent(self.end_reason()))
    }

    /// Gives answers to those who wait for them, until the stream ends.
    pub(super) async fn receive(
        &self,
        mut incoming: Box<dyn Incoming>,
        max_body: usize,
    ) -> Result<(), LinkFault> {
        let mut decoder = Decoder::new(max_body);
        while let Some(chunk) = incoming.receive().await? {
            decoder.push(chunk);
            while let Some(frame) = decoder.next()? {
                let answer = match frame.header.what {
                    What::Answer => Ok(frame.body),
                    What::Refusal => {
                        let reason = String::from_utf8_lossy(&frame.body).into_owned();
                        Err(CallError::Refused(reason))
                    }
                    what => return Err(LinkFault::Misplaced(what)),
                };
                // Of a call that is over, or of one that never was: nobody waits for it.
                if let Some(call) = self.take(frame.header.number) {
                    let _ = call.send(answer);
                }
            }
        }
        Ok(decoder.end()?)
    }

    /// Tells all who wait that no answer will come.
    pub(super) fn end(&self, reason: &str) {
        self.requests.close();
        let mut waiting = self.lock();
        waiting.ended = Some(reason.to_owned());
        for call in std::mem::take(&mut waiting.by_number).into_values() {
            let _ = call.send(Err(CallError::Lost(reason.to_owned())));
        }
    }

    fn end_reason(&self) -> String {
        let ended = self.lock().ended.clone();
        ended.unwrap_or_else(|| "it is being closed".to_owned())
    }

    fn take(&self, number: u64) -> Option<oneshot::Sender<Answer>> {
        self.lock().by_number.remove(&number)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no holder panics")
    }
}

/// A call under way. Dropped early, it is forgotten here and cancelled there.
struct Call<'a> {
    asking: &'a Asking,
    number: u64,
    /// And not answered.
    is_sent: bool,
}

impl<'a> Call<'a> {
    fn register(
        asking: &'a Asking,
        number: u64,
    ) -> Result<(Self, oneshot::Receiver<Answer>), CallError> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = asking.lock();
        if let Some(reason) = &waiting.ended {
            return Err(CallError::NotSent(reason.clone()));
        }
        waiting.by_number.insert(number, sender);
        drop(waiting);
        let call = Self {
            asking,
            number,
            is_sent: false,
        };
        Ok((call, receiver))
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.asking.take(self.number).is_some() && self.is_sent {
            let header = Header {
                what: What::Cancel,
                method: 0,
                deadline_ms: 0,
                number: self.number,
            };
            // Where there is no room for it, the request's deadline ends the work.
            self.asking.requests.try_push(header, &[]);
        }
    }
}
