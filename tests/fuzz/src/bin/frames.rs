//! FR-1 and FR-2 of the frame decoder, for any bytes in any chunks.
//!
//! The first byte says how the rest is cut into chunks. However it is cut, the same frames come out,
//! and the same refusal; what was decoded encodes to the bytes that were read.

#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use transport::frame::{Decoder, Frame, FrameError, encode};

/// Small, so that the limit is met often.
const MAX_BODY: usize = 1 << 12;

/// The frames, and how the stream ends.
type Decoded = (Vec<Frame>, Result<(), FrameError>);

fn decode(chunks: impl Iterator<Item = Bytes>) -> Decoded {
    let mut decoder = Decoder::new(MAX_BODY);
    let mut frames = Vec::new();
    for chunk in chunks {
        decoder.push(chunk);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    let end = decoder.end();
    (frames, end)
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, stream)) = data.split_first() else {
        return;
    };
    let whole = decode(std::iter::once(Bytes::copy_from_slice(stream)));
    // Chunks of one length, and of growing ones.
    let even = stream.chunks(usize::from(cut).max(1)).map(Bytes::copy_from_slice);
    assert_eq!(decode(even), whole);
    let mut rest = stream;
    let mut step = usize::from(cut % 7);
    let growing = std::iter::from_fn(|| {
        step += 1;
        let (chunk, left) = rest.split_at_checked(step.min(rest.len()))?;
        rest = left;
        (!chunk.is_empty()).then(|| Bytes::copy_from_slice(chunk))
    });
    assert_eq!(decode(growing), whole);

    let mut again = BytesMut::new();
    for frame in &whole.0 {
        assert!(frame.body.len() <= MAX_BODY);
        encode(frame.header, &frame.body, &mut again).expect("it was a frame before");
    }
    assert!(stream.starts_with(&again));
});
