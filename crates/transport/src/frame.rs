//! Frames: how messages lie within a stream.
//!
//! ```text
//! len u32 | what u8 | method u8 | deadline_ms u32 | number u64 | body, `len` bytes
//! ```
//! All little-endian.
//!
//! - **FR-1 (bounded).** A decoder holds at most one body of `max_body` bytes and one chunk of the
//!   stream, and takes memory for what has arrived, never for what was announced.
//! - **FR-2 (exact).** What was encoded is decoded again whatever the borders of the chunks it arrives
//!   in; anything else is refused.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes before a body.
pub const HEADER: usize = 18;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Wants an answer.
    Request,
    /// Wants none.
    Cast,
    /// The answer to a request.
    Answer,
    /// The reason, in UTF-8, why a request has no answer.
    Refusal,
    /// Nobody waits for the answer to a request any more.
    Cancel,
}

impl What {
    const ALL: [Self; 5] = [
        Self::Request,
        Self::Cast,
        Self::Answer,
        Self::Refusal,
        Self::Cancel,
    ];

    fn code(self) -> u8 {
        self as u8
    }

    fn of_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// What stands before a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub what: What,
    /// Which method is asked for; 0 in answers.
    pub method: u8,
    /// How long the sender waits for the answer, in milliseconds, counted from when the frame is
    /// read; 0 is for ever.
    pub deadline_ms: u32,
    /// The request's number within its stream; 0 for casts.
    pub number: u64,
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What stands before the body.
    pub header: Header,
    /// The body.
    pub body: Bytes,
}

/// The stream does not hold frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame is announced that is longer than any may be.
    #[error("a frame of {len} bytes is announced, and {max} are allowed")]
    TooLong {
        /// The length announced.
        len: u64,
        /// The length allowed.
        max: usize,
    },
    /// There is no such kind of frame.
    #[error("a frame of the unknown kind {0}")]
    Unknown(u8),
    /// The stream ends within a frame.
    #[error("the stream ends within a frame")]
    Cut,
}

/// Appends a frame.
///
/// # Errors
/// When the body is longer than a frame can say.
pub fn encode(header: Header, body: &[u8], out: &mut BytesMut) -> Result<(), FrameError> {
    let len = u32::try_from(body.len()).map_err(|_| FrameError::TooLong {
        len: body.len() as u64,
        max: u32::MAX as usize,
    })?;
    out.reserve(HEADER + body.len());
    out.put_u32_le(len);
    out.put_u8(header.what.code());
    out.put_u8(header.method);
    out.put_u32_le(header.deadline_ms);
    out.put_u64_le(header.number);
    out.put_slice(body);
    Ok(())
}

/// Makes frames of chunks.
#[derive(Debug)]
pub struct Decoder {
    max_body: usize,
    /// A frame that began in an earlier chunk.
    begun: BytesMut,
    /// The newest chunk; empty while `begun` is not.
    chunk: Bytes,
}

impl Decoder {
    /// A decoder that refuses bodies of more than `max_body` bytes.
    pub fn new(max_body: usize) -> Self {
        Self {
            max_body,
            begun: BytesMut::new(),
            chunk: Bytes::new(),
        }
    }

    /// Takes the next chunk. Call [`Decoder::next`] until it has no more before the next one.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "the last chunk is used up");
        self.chunk = chunk;
    }

    /// The next whole frame. A body that lies within one chunk is not copied.
    ///
    /// # Errors
    /// When the stream does not hold frames; it is of no use from here on.
    #[expect(clippy::should_implement_trait, reason = "it goes on after None")]
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.begun.is_empty() {
            return self.next_of_chunk();
        }
        if !self.fill(HEADER) {
            return Ok(None);
        }
        let (header, len) = self.header(&self.begun)?;
        if !self.fill(HEADER + len) {
            return Ok(None);
        }
        // A short frame must not keep the buffer of a long one alive.
        let mut whole = std::mem::take(&mut self.begun).freeze();
        whole.advance(HEADER);
        Ok(Some(Frame {
            header,
            body: whole,
        }))
    }

    /// Whether the stream may end here.
    ///
    /// # Errors
    /// When a frame has begun and is not whole.
    pub fn end(&self) -> Result<(), FrameError> {
        match self.begun.is_empty() && self.chunk.is_empty() {
            true => Ok(()),
            false => Err(FrameError::Cut),
        }
    }

    fn next_of_chunk(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.chunk.len() >= HEADER {
            let (header, len) = self.header(&self.chunk)?;
            if self.chunk.len() - HEADER >= len {
                self.chunk.advance(HEADER);
                let body = self.chunk.split_to(len);
                return Ok(Some(Frame { header, body }));
            }
        }
        self.begun.extend_from_slice(&self.chunk);
        self.chunk = Bytes::new();
        Ok(None)
    }

    /// Moves bytes from the chunk until `begun` holds `len`. False when there are too few.
    fn fill(&mut self, len: usize) -> bool {
        let missing = len.saturating_sub(self.begun.len());
        let part = self.chunk.split_to(missing.min(self.chunk.len()));
        self.begun.extend_from_slice(&part);
        self.begun.len() >= len
    }

    fn header(&self, mut bytes: &[u8]) -> Result<(Header, usize), FrameError> {
        let len = bytes.get_u32_le() as usize;
        let code = bytes.get_u8();
        let what = What::of_code(code).ok_or(FrameError::Unknown(code))?;
        let header = Header {
            what,
            method: bytes.get_u8(),
            deadline_ms: bytes.get_u32_le(),
            number: bytes.get_u64_le(),
        };
        match len <= self.max_body {
            true => Ok((header, len)),
            false => Err(FrameError::TooLong {
                len: len as u64,
                max: self.max_body,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX_BODY: usize = 4096;

    fn frame() -> impl Strategy<Value = Frame> {
        let what = (0..What::ALL.len()).prop_map(|i| What::ALL[i]);
        let body = proptest::collection::vec(any::<u8>(), 0..300);
        (what, any::<u8>(), any::<u32>(), any::<u64>(), body).prop_map(
            |(what, method, deadline_ms, number, body)| Frame {
                header: Header {
                    what,
                    method,
                    deadline_ms,
                    number,
                },
                body: body.into(),
            },
        )
    }

    fn decode(chunks: impl Iterator<Item = Bytes>) -> Result<Vec<Frame>, FrameError> {
        let mut decoder = Decoder::new(MAX_BODY);
        let mut frames = Vec::new();
        for chunk in chunks {
            let len = chunk.len();
            decoder.push(chunk);
            while let Some(frame) = decoder.next()? {
                frames.push(frame);
            }
            let held = decoder.begun.capacity();
            assert!(held <= 4 * (HEADER + MAX_BODY + len), "holds {held} bytes");
        }
        decoder.end()?;
        Ok(frames)
    }

    proptest! {
        #[test]
        fn fr_2_frames_come_back_whatever_the_chunks(
            frames in proptest::collection::vec(frame(), 0..20),
            sizes in proptest::collection::vec(1usize..400, 1..50),
        ) {
            let mut bytes = BytesMut::new();
            for frame in &frames {
                encode(frame.header, &frame.body, &mut bytes).unwrap();
            }
            let mut rest = bytes.freeze();
            let mut sizes = sizes.into_iter().cycle();
            let chunks = std::iter::from_fn(|| {
                let size = sizes.next().unwrap().min(rest.len());
                (size > 0).then(|| rest.split_to(size))
            });
            prop_assert_eq!(decode(chunks).unwrap(), frames);
        }

        #[test]
        fn fr_2_a_cut_is_noticed(frame in frame(), keep in 0.0f64..1.0) {
            let mut bytes = BytesMut::new();
            encode(frame.header, &frame.body, &mut bytes).unwrap();
            let cut = 1 + (keep * (bytes.len() - 1) as f64) as usize;
            let found = decode(std::iter::once(bytes.freeze().slice(..cut)));
            match found {
                Ok(frames) => prop_assert_eq!(frames, [frame]),
                Err(error) => prop_assert_eq!(error, FrameError::Cut),
            }
        }

        #[test]
        fn fr_1_arbitrary_bytes_never_panic_nor_take_memory(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
            size in 1usize..64,
        ) {
            let bytes = Bytes::from(bytes);
            let chunks: Vec<Bytes> = (0..bytes.len())
                .step_by(size)
                .map(|start| bytes.slice(start..bytes.len().min(start + size)))
                .collect();
            let _ = decode(chunks.into_iter());
        }
    }

    #[test]
    fn fr_1_a_length_beyond_the_limit_is_refused_at_its_header() {
        let mut header = BytesMut::new();
        header.put_u32_le(MAX_BODY as u32 + 1);
        header.put_bytes(0, HEADER - 4);
        let max = MAX_BODY;
        let len = MAX_BODY as u64 + 1;
        assert_eq!(
            decode(std::iter::once(header.freeze())),
            Err(FrameError::TooLong { len, max })
        );
    }
}
