//! A tensor's memory, for two threads of one operation.
#![allow(unsafe_code)]

use crate::CollectiveError;
use std::ops::Range;
use tch::{Device, Tensor};

/// The elements of a contiguous tensor in host memory, which it keeps alive. What is read and what is
/// written at the same time must not overlap: the plan of an operation sees to that, for elements are
/// replaced only by what depends on their having been sent.
#[derive(Debug)]
pub(super) struct Memory {
    start: *mut u8,
    bytes: usize,
    /// Bytes of an element.
    size: usize,
    _tensor: Tensor,
}

// SAFETY: the memory is libtorch's, which any thread may use; the tensor's reference count is atomic.
unsafe impl Send for Memory {}
// SAFETY: as above; who writes is alone with what it writes, as the callers of `bytes_mut` promise.
unsafe impl Sync for Memory {}

impl Memory {
    pub(super) fn of(tensor: &Tensor) -> Result<Self, CollectiveError> {
        let refused = |what: String| Err(CollectiveError::Unsupported(what));
        if tensor.device() != Device::Cpu {
            return refused(format!(
                "a ring moves host memory, and this tensor is on {:?}: use NCCL, or copy it",
                tensor.device()
            ));
        }
        if !tensor.is_contiguous() {
            return refused("a ring moves contiguous tensors only".to_owned());
        }
        let size = tensor.kind().elt_size_in_bytes();
        Ok(Self {
            start: tensor.data_ptr().cast(),
            bytes: tensor.numel() * size,
            size,
            _tensor: tensor.shallow_clone(),
        })
    }

    fn span(&self, elements: &Range<usize>) -> (*mut u8, usize) {
        let (start, end) = (elements.start * self.size, elements.end * self.size);
        assert!(start <= end && end <= self.bytes, "elements of the tensor");
        if self.bytes == 0 {
            return (std::ptr::dangling_mut::<u64>().cast(), 0);
        }
        (self.start.wrapping_add(start), end - start)
    }

    /// Elements as bytes.
    ///
    /// # Safety
    /// Nobody writes to them meanwhile.
    pub(super) unsafe fn bytes(&self, elements: &Range<usize>) -> &[u8] {
        let (start, bytes) = self.span(elements);
        // SAFETY: within the tensor's memory, which `_tensor` keeps; the rest is promised above.
        unsafe { std::slice::from_raw_parts(start, bytes) }
    }

    /// Elements as bytes to write to.
    ///
    /// # Safety
    /// Nobody else reads or writes them meanwhile.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn bytes_mut(&self, elements: &Range<usize>) -> &mut [u8] {
        let (start, bytes) = self.span(elements);
        // SAFETY: as in `bytes`.
        unsafe { std::slice::from_raw_parts_mut(start, bytes) }
    }

    /// Elements by their type.
    ///
    /// # Safety
    /// `E` is the tensor's element type, and nobody else reads or writes them meanwhile.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn elements_mut<E>(&self, elements: &Range<usize>) -> &mut [E] {
        assert_eq!(size_of::<E>(), self.size, "the tensor's element type");
        let (start, bytes) = self.span(elements);
        // SAFETY: as in `bytes`; libtorch aligns memory for every element type.
        unsafe { std::slice::from_raw_parts_mut(start.cast(), bytes / self.size) }
    }

    /// Elements by their type, to read.
    ///
    /// # Safety
    /// `E` is the tensor's element type, and nobody writes to them meanwhile.
    pub(super) unsafe fn elements<E>(&self, elements: &Range<usize>) -> &[E] {
        assert_eq!(size_of::<E>(), self.size, "the tensor's element type");
        let (start, bytes) = self.span(elements);
        // SAFETY: as in `elements_mut`.
        unsafe { std::slice::from_raw_parts(start.cast(), bytes / self.size) }
    }
}
