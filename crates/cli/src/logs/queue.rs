//! Lines on their way to whoever takes them, who may stop taking them at any time (LO-1).

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Bytes that wait at most; as many again may be on their way.
const MOST_BYTES: usize = 1 << 20;

/// Bytes that are written at a time.
const BATCH_BYTES: usize = 64 << 10;

/// A queue with a thread that empties it. Clones are the same; the thread lives as long as the program.
#[derive(Clone)]
pub struct Queue(Arc<Shared>);

struct Shared {
    pending: Mutex<Pending>,
    /// A line came, or a batch is out.
    changed: Condvar,
}

impl Queue {
    /// Has a thread write what is pushed. `lost` says how many lines are missing at a place.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        sink: impl Write + Send + 'static,
        lost: impl Fn(u64) -> String + Send + 'static,
    ) -> io::Result<Self> {
        let queue = Self(Arc::new(Shared {
            pending: Mutex::default(),
            changed: Condvar::new(),
        }));
        let draining = queue.clone();
        let thread = std::thread::Builder::new().name("logs".to_owned());
        thread.spawn(move || draining.drain(sink, lost))?;
        Ok(queue)
    }

    /// Adds a line, or counts it as lost. Never waits for the one who reads.
    pub fn push(&self, line: &[u8]) {
        self.lock().push(line);
        self.0.changed.notify_all();
    }

    /// Waits until everything is out, or nothing was for `limit`; whether everything is.
    pub fn flush(&self, limit: Duration) -> bool {
        let mut pending = self.lock();
        while !pending.is_done() {
            let batches = pending.batches;
            let waited = self
                .0
                .changed
                .wait_timeout_while(pending, limit, |pending| {
                    pending.batches == batches && !pending.is_done()
                });
            let (now, timeout) = waited.expect("no holder panics");
            if timeout.timed_out() {
                return false;
            }
            pending = now;
        }
        true
    }

    fn drain(&self, mut sink: impl Write, lost: impl Fn(u64) -> String) {
        loop {
            let batch = {
                let waited = self
                    .0
                    .changed
                    .wait_while(self.lock(), |p| p.lines.is_empty());
                waited.expect("no holder panics").take()
            };
            let written = batch.write(&mut sink, &lost);
            let mut pending = self.lock();
            pending.is_writing = false;
            pending.batches += 1;
            if written.is_err() {
                // A disk may have room again later; a pipe that is closed stays so.
                pending.failed += batch.failed + batch.lines + batch.lost;
            }
            drop(pending);
            self.0.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0.pending.lock().expect("no holder panics")
    }
}

/// What waits to be written.
#[derive(Default)]
struct Pending {
    /// Lines that could not be written, before those that wait.
    failed: u64,
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines that found no room behind the last one that waits.
    lost: u64,
    is_writing: bool,
    /// Written so far.
    batches: u64,
}

/// What is written at a time.
#[derive(Default)]
struct Batch {
    /// Lines that are missing before these.
    failed: u64,
    bytes: Vec<u8>,
    lines: u64,
    /// Lines that are missing behind these.
    lost: u64,
}

impl Batch {
    fn write(&self, sink: &mut impl Write, lost: impl Fn(u64) -> String) -> io::Result<()> {
        let missing = |sink: &mut dyn Write, count: u64| match count {
            0 => Ok(()),
            count => sink.write_all(lost(count).as_bytes()),
        };
        missing(sink, self.failed)?;
        sink.write_all(&self.bytes)?;
        missing(sink, self.lost)?;
        sink.flush()
    }
}

impl Pending {
    fn push(&mut self, line: &[u8]) {
        // Once some are missing, the next one that is kept stands behind the count of these.
        if self.lost > 0 || self.bytes + line.len() > MOST_BYTES {
            self.lost += 1;
            return;
        }
        self.bytes += line.len();
        self.lines.push_back(line.to_vec());
    }

    fn take(&mut self) -> Batch {
        let mut batch = Batch {
            failed: std::mem::take(&mut self.failed),
            ..Batch::default()
        };
        while let Some(line) = self.lines.pop_front() {
            self.bytes -= line.len();
            batch.lines += 1;
            batch.bytes.extend(line);
            if batch.bytes.len() >= BATCH_BYTES {
                break;
            }
        }
        if self.lines.is_empty() {
            batch.lost = std::mem::take(&mut self.lost);
        }
        self.is_writing = true;
        batch
    }

    fn is_done(&self) -> bool {
        self.lines.is_empty() && !self.is_writing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No test takes as long.
    const LIMIT: Duration = Duration::from_secs(60);

    /// Somebody who reads, or does not for now.
    #[derive(Clone, Default)]
    struct Reader(Arc<(Mutex<Read>, Condvar)>);

    #[derive(Default)]
    struct Read {
        is_stopped: bool,
        is_broken: bool,
        waits: bool,
        bytes: Vec<u8>,
    }

    impl Reader {
        fn set(&self, set: impl FnOnce(&mut Read)) {
            set(&mut self.0.0.lock().unwrap());
            self.0.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().unwrap().bytes.clone()).unwrap()
        }

        /// Waits until somebody has begun to write, and cannot.
        fn until_waited_for(&self) {
            let read = self.0.0.lock().unwrap();
            let waited = self.0.1.wait_timeout_while(read, LIMIT, |read| !read.waits);
            assert!(!waited.unwrap().1.timed_out());
        }
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut read = self.0.0.lock().unwrap();
            read.waits = true;
            self.0.1.notify_all();
            let mut read = self.0.1.wait_while(read, |read| read.is_stopped).unwrap();
            read.waits = false;
            if read.is_broken {
                return Err(io::ErrorKind::StorageFull.into());
            }
            read.bytes.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue(reader: &Reader) -> Queue {
        Queue::start(reader.clone(), |count| format!("lost {count}\n")).unwrap()
    }

    #[test]
    fn lo_1_nobody_waits_for_a_reader_that_stopped_and_what_is_lost_is_counted() {
        let reader = Reader::default();
        reader.set(|read| read.is_stopped = true);
        let queue = queue(&reader);
        let line = |n: usize| format!("{n:0>1023}\n");
        let all = 10_000;
        queue.push(line(0).as_bytes());
        reader.until_waited_for();
        for n in 1..all {
            queue.push(line(n).as_bytes());
        }
        assert!(!queue.flush(Duration::from_millis(1)));
        reader.set(|read| read.is_stopped = false);
        assert!(queue.flush(LIMIT));
        queue.push(b"back\n");
        assert!(queue.flush(LIMIT));
        let text = reader.text();
        let lines: Vec<&str> = text.lines().collect();
        let kept = lines.len() - 2;
        assert_eq!(kept, 1 + MOST_BYTES / 1024);
        assert!((0..kept).all(|n| lines[n] == line(n).trim_end()));
        assert_eq!(lines[kept..], [&format!("lost {}", all - kept)[..], "back"]);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_once_they_can() {
        let reader = Reader::default();
        let queue = queue(&reader);
        reader.set(|read| read.is_broken = true);
        queue.push(b"a\n");
        assert!(queue.flush(LIMIT));
        reader.set(|read| read.is_broken = false);
        queue.push(b"b\n");
        queue.push(b"c\n");
        assert!(queue.flush(LIMIT));
        assert_eq!(reader.text(), "lost 1\nb\nc\n");
    }
}
