//! Streams, events and memory of one GPU, through the CUDA driver, loaded at run time.
//!
//! The driver and not the runtime library: it comes with the GPU, and every version of libtorch shares
//! its primary context.
#![allow(unsafe_code)]

use super::library::{self, Code, LoadError, Opened};
use super::symbols::symbols;
use cudarc::driver::sys::{CUcontext, CUdevice, CUdeviceptr, CUevent, CUstream};
use std::ffi::{OsStr, OsString, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

/// `CU_STREAM_NON_BLOCKING`: the stream does not wait for libtorch's, nor that one for it.
const NON_BLOCKING: c_uint = 1;
/// `CU_EVENT_DISABLE_TIMING`.
const WITHOUT_TIMING: c_uint = 2;
/// `CUDA_ERROR_NOT_READY`.
const NOT_READY: Code = 600;

const REMEDY: &str = "install NVIDIA's driver; NCCL needs a GPU";

symbols! {
    /// What is used of the driver, as in `cuda.h`.
    Functions {
        init = "cuInit" (c_uint) -> Code;
        device_get = "cuDeviceGet" (*mut CUdevice, c_int) -> Code;
        context_retain = "cuDevicePrimaryCtxRetain" (*mut CUcontext, CUdevice) -> Code;
        context_release = "cuDevicePrimaryCtxRelease_v2" (CUdevice) -> Code;
        context_push = "cuCtxPushCurrent_v2" (CUcontext) -> Code;
        context_pop = "cuCtxPopCurrent_v2" (*mut CUcontext) -> Code;
        stream_create = "cuStreamCreate" (*mut CUstream, c_uint) -> Code;
        stream_destroy = "cuStreamDestroy_v2" (CUstream) -> Code;
        stream_query = "cuStreamQuery" (CUstream) -> Code;
        stream_wait = "cuStreamWaitEvent" (CUstream, CUevent, c_uint) -> Code;
        event_create = "cuEventCreate" (*mut CUevent, c_uint) -> Code;
        event_record = "cuEventRecord" (CUevent, CUstream) -> Code;
        event_query = "cuEventQuery" (CUevent) -> Code;
        event_destroy = "cuEventDestroy_v2" (CUevent) -> Code;
        memory_allocate = "cuMemAlloc_v2" (*mut CUdeviceptr, usize) -> Code;
        memory_free = "cuMemFree_v2" (CUdeviceptr) -> Code;
        host_allocate = "cuMemHostAlloc" (*mut *mut c_void, usize, c_uint) -> Code;
        host_free = "cuMemFreeHost" (*mut c_void) -> Code;
        copy = "cuMemcpyAsync" (CUdeviceptr, CUdeviceptr, usize, CUstream) -> Code;
        error_name = "cuGetErrorName" (Code, *mut *const c_char) -> Code;
    }
}

/// Why something on the GPU failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The call.
    pub call: &'static str,
    /// The driver's name for what went wrong.
    pub name: String,
}

/// The primary context of one GPU, which libtorch works in too.
pub(super) struct Gpu {
    functions: Functions,
    device: CUdevice,
    context: CUcontext,
}

// SAFETY: contexts may be used by any thread; the driver locks for itself.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

/// While it lives, the GPU is the calling thread's.
pub(super) struct Current<'a>(&'a Gpu);

impl Gpu {
    /// GPU `ordinal`, through the driver of this machine.
    pub(super) fn open(ordinal: usize) -> Result<Arc<Self>, OpenError> {
        let names = ["libcuda.so.1", "libcuda.so"].map(OsString::from);
        match library::first_of(&names) {
            Some((opened, name)) => Self::through(&opened, &name, ordinal),
            None => Err(OpenError::Load(LoadError::Missing {
                name: "the CUDA driver",
                tried: library::listed(&names),
                remedy: REMEDY,
            })),
        }
    }

    /// GPU `ordinal`, through this library.
    pub(super) fn through(
        opened: &Opened,
        name: &OsStr,
        ordinal: usize,
    ) -> Result<Arc<Self>, OpenError> {
        // SAFETY: these are the signatures in cuda.h since 4.0, and the library stays.
        let functions = unsafe { Functions::of(opened) };
        let functions = functions.map_err(|symbol| LoadError::Foreign {
            path: name.display().to_string(),
            symbol,
            remedy: REMEDY,
        })?;
        let (mut device, mut context) = (0, null_mut());
        // SAFETY: each writes one value; the second and third come after the first has succeeded.
        unsafe {
            functions.check("cuInit", (functions.init)(0))?;
            let code = (functions.device_get)(&mut device, ordinal as c_int);
            functions.check("cuDeviceGet", code)?;
            let code = (functions.context_retain)(&mut context, device);
            functions.check("cuDevicePrimaryCtxRetain", code)?;
        }
        Ok(Arc::new(Self {
            functions,
            device,
            context,
        }))
    }

    /// Makes the GPU the calling thread's.
    pub(super) fn enter(&self) -> Result<Current<'_>, Fault> {
        // SAFETY: the context is retained as long as this lives.
        let code = unsafe { (self.functions.context_push)(self.context) };
        self.functions.check("cuCtxPushCurrent", code)?;
        Ok(Current(self))
    }

    fn is_ready(&self, call: &'static str, code: Code) -> Result<bool, Fault> {
        match code {
            NOT_READY => Ok(false),
            code => self.functions.check(call, code).map(|()| true),
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: retained once, when this was made.
        let _ = unsafe { (self.functions.context_release)(self.device) };
    }
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        let mut context = null_mut();
        // SAFETY: takes back what `enter` has pushed.
        let _ = unsafe { (self.0.functions.context_pop)(&mut context) };
    }
}

impl Functions {
    fn check(&self, call: &'static str, code: Code) -> Result<(), Fault> {
        if code == 0 {
            return Ok(());
        }
        let mut name = std::ptr::null();
        // SAFETY: it writes one pointer, to a constant or null.
        let name = unsafe {
            (self.error_name)(code, &mut name);
            library::text(name)
        };
        let name = match name.is_empty() {
            true => format!("code {code}"),
            false => name,
        };
        Err(Fault { call, name })
    }
}

/// Why a GPU cannot be used.
#[derive(Debug)]
pub(super) enum OpenError {
    Load(LoadError),
    Fault(Fault),
}

impl From<LoadError> for OpenError {
    fn from(error: LoadError) -> Self {
        Self::Load(error)
    }
}

impl From<Fault> for OpenError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Work in order. Calls need the GPU to be [current](Gpu::enter), here and below.
pub(super) struct Stream {
    gpu: Arc<Gpu>,
    raw: CUstream,
    is_own: bool,
}

// SAFETY: the driver locks for itself.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// The stream that libtorch works in where nobody has set another: CUDA's default one.
    pub(super) fn of_libtorch(gpu: &Arc<Gpu>) -> Self {
        Self {
            gpu: gpu.clone(),
            raw: null_mut(),
            is_own: false,
        }
    }

    /// A stream beside libtorch's.
    pub(super) fn new(gpu: &Arc<Gpu>) -> Result<Self, Fault> {
        let mut raw = null_mut();
        // SAFETY: it writes one handle.
        let code = unsafe { (gpu.functions.stream_create)(&mut raw, NON_BLOCKING) };
        gpu.functions.check("cuStreamCreate", code)?;
        Ok(Self {
            gpu: gpu.clone(),
            raw,
            is_own: true,
        })
    }

    pub(super) fn raw(&self) -> CUstream {
        self.raw
    }

    /// What comes next in this stream waits until the event's place is reached.
    pub(super) fn wait_for(&self, event: &Event) -> Result<(), Fault> {
        // SAFETY: both are open.
        let code = unsafe { (self.gpu.functions.stream_wait)(self.raw, event.raw, 0) };
        self.gpu.functions.check("cuStreamWaitEvent", code)
    }

    /// Whether all its work is done.
    pub(super) fn is_idle(&self) -> Result<bool, Fault> {
        // SAFETY: it is open.
        let code = unsafe { (self.gpu.functions.stream_query)(self.raw) };
        self.gpu.is_ready("cuStreamQuery", code)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.is_own {
            // SAFETY: it is open, and nobody has it any more; work in it is still done.
            let _ = unsafe { (self.gpu.functions.stream_destroy)(self.raw) };
        }
    }
}

/// A place in a stream.
pub(super) struct Event {
    gpu: Arc<Gpu>,
    raw: CUevent,
}

// SAFETY: the driver locks for itself.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    pub(super) fn new(gpu: &Arc<Gpu>) -> Result<Self, Fault> {
        let mut raw = null_mut();
        // SAFETY: it writes one handle.
        let code = unsafe { (gpu.functions.event_create)(&mut raw, WITHOUT_TIMING) };
        gpu.functions.check("cuEventCreate", code)?;
        Ok(Self {
            gpu: gpu.clone(),
            raw,
        })
    }

    /// Stands for the end of what `stream` has been given so far.
    pub(super) fn record(&self, stream: &Stream) -> Result<(), Fault> {
        // SAFETY: both are open.
        let code = unsafe { (self.gpu.functions.event_record)(self.raw, stream.raw) };
        self.gpu.functions.check("cuEventRecord", code)
    }

    pub(super) fn is_reached(&self) -> Result<bool, Fault> {
        // SAFETY: it is open.
        let code = unsafe { (self.gpu.functions.event_query)(self.raw) };
        self.gpu.is_ready("cuEventQuery", code)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: it is open, and nobody has it any more.
        let _ = unsafe { (self.gpu.functions.event_destroy)(self.raw) };
    }
}

/// Words on the GPU and their copy on the host, pinned, so that copies do not hold up the host.
pub(super) struct Words {
    gpu: Arc<Gpu>,
    device: CUdeviceptr,
    host: *mut u64,
    count: usize,
}

// SAFETY: the memory belongs to this alone.
unsafe impl Send for Words {}

impl Words {
    pub(super) fn new(gpu: &Arc<Gpu>, count: usize) -> Result<Self, Fault> {
        let bytes = count * size_of::<u64>();
        let (mut device, mut host) = (0, null_mut());
        // SAFETY: each writes one address.
        unsafe {
            let code = (gpu.functions.memory_allocate)(&mut device, bytes);
            gpu.functions.check("cuMemAlloc", code)?;
            let code = (gpu.functions.host_allocate)(&mut host, bytes, 0);
            if let Err(fault) = gpu.functions.check("cuMemHostAlloc", code) {
                (gpu.functions.memory_free)(device);
                return Err(fault);
            }
        }
        Ok(Self {
            gpu: gpu.clone(),
            device,
            host: host.cast(),
            count,
        })
    }

    /// Where they are on the GPU.
    pub(super) fn on_gpu(&self) -> *mut c_void {
        self.device as usize as *mut c_void
    }

    /// Sets the words from `at` on the host, and copies all to the GPU in the stream's order. No copy
    /// of these words is under way.
    pub(super) fn send(&mut self, at: usize, words: &[u64], stream: &Stream) -> Result<(), Fault> {
        assert!(at + words.len() <= self.count, "room for the words");
        // SAFETY: there is room, and no copy reads it.
        unsafe {
            self.host
                .add(at)
                .copy_from_nonoverlapping(words.as_ptr(), words.len())
        };
        self.copy(self.device, self.host as CUdeviceptr, stream)
    }

    /// Copies all words to the host, in the stream's order.
    pub(super) fn fetch(&self, stream: &Stream) -> Result<(), Fault> {
        self.copy(self.host as CUdeviceptr, self.device, stream)
    }

    /// The words on the host, once a copy to it is over.
    pub(super) fn on_host(&self) -> Vec<u64> {
        // SAFETY: `count` words, and no copy writes them.
        unsafe { std::slice::from_raw_parts(self.host, self.count) }.to_vec()
    }

    fn copy(&self, to: CUdeviceptr, from: CUdeviceptr, stream: &Stream) -> Result<(), Fault> {
        let bytes = self.count * size_of::<u64>();
        // SAFETY: both blocks have the bytes and live as long as the stream works with them.
        let code = unsafe { (self.gpu.functions.copy)(to, from, bytes, stream.raw) };
        self.gpu.functions.check("cuMemcpyAsync", code)
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: allocated when this was made, and no work uses it any more.
        unsafe {
            (self.gpu.functions.memory_free)(self.device);
            (self.gpu.functions.host_free)(self.host.cast());
        }
    }
}
