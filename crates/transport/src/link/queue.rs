//! Frames that wait to be sent: a buffer with a limit in bytes.

use super::LinkFault;
use crate::connection::Outgoing;
use crate::frame::{self, HEADER, Header};
use bytes::BytesMut;
use std::sync::Mutex;
use tokio::sync::{Notify, Semaphore};

/// One stream's frames. Many push, one task drains; whatever was pushed meanwhile goes out together.
pub(super) struct Queue {
    /// Bytes that may still be pushed.
    room: Semaphore,
    limit: usize,
    buffer: Mutex<BytesMut>,
    wake: Notify,
}

/// The queue takes no more.
#[derive(Debug)]
pub(super) struct Closed;

impl Queue {
    pub(super) fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        Self {
            room: Semaphore::new(limit),
            limit,
            buffer: Mutex::new(BytesMut::new()),
            wake: Notify::new(),
        }
    }

    /// What a frame takes of the room. One that is larger than all of it goes out alone.
    fn share(&self, body: usize) -> u32 {
        (HEADER + body).min(self.limit) as u32
    }

    /// Queues a frame, as soon as there is room for it.
    pub(super) async fn push(&self, header: Header, body: &[u8]) -> Result<(), Closed> {
        let share = self.share(body.len());
        let room = match self.room.try_acquire_many(share) {
            Ok(room) => room,
            Err(_) => self.room.acquire_many(share).await.map_err(|_| Closed)?,
        };
        room.forget();
        self.append(header, body);
        Ok(())
    }

    /// Queues a frame if there is room for it now.
    pub(super) fn try_push(&self, header: Header, body: &[u8]) -> bool {
        match self.room.try_acquire_many(self.share(body.len())) {
            Ok(room) => {
                room.forget();
                self.append(header, body);
                true
            }
            Err(_) => false,
        }
    }

    fn append(&self, header: Header, body: &[u8]) {
        let mut buffer = self.buffer.lock().expect("no holder panics");
        let was_empty = buffer.is_empty();
        frame::encode(header, body, &mut buffer).expect("a link's largest body fits a frame");
        drop(buffer);
        if was_empty {
            self.wake.notify_one();
        }
    }

    pub(super) fn close(&self) {
        self.room.close();
    }

    /// Sends what is pushed, for ever.
    pub(super) async fn drain(&self, mut out: Box<dyn Outgoing>) -> Result<(), LinkFault> {
        loop {
            let batch = self
                .buffer
                .lock()
                .expect("no holder panics")
                .split()
                .freeze();
            if batch.is_empty() {
                self.wake.notified().await;
                continue;
            }
            let sent = batch.len();
            out.send(batch).await?;
            // A frame that took all the room may have been longer than that.
            self.room.add_permits(sent.min(self.limit));
        }
    }
}
