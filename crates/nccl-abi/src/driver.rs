//! The CUDA driver's functions: contexts, streams, events and memory, all of it the host's.

use crate::handles::{Table, lock, misuse};
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::thread;

type Code = c_uint;

const SUCCESS: Code = 0;
const INVALID_VALUE: Code = 1;
const INVALID_DEVICE: Code = 101;
const INVALID_CONTEXT: Code = 201;
const INVALID_HANDLE: Code = 400;
const NOT_READY: Code = 600;

/// Devices there are.
const DEVICES: c_int = 8;

type Task = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    is_working: bool,
    is_closed: bool,
}

/// Tasks that a thread of its own works on, one after the other.
#[derive(Default)]
pub struct Stream {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Stream {
    fn work(&self) {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(task) = queue.tasks.pop_front() {
                queue.is_working = true;
                drop(queue);
                task();
                queue = lock(&self.queue);
                queue.is_working = false;
            } else if queue.is_closed {
                return;
            } else {
                queue = self.changed.wait(queue).unwrap_or_else(|p| p.into_inner());
            }
        }
    }
}

/// A place in a stream's work, reached or not.
#[derive(Default)]
pub struct Mark {
    is_reached: Mutex<bool>,
    changed: Condvar,
}

impl Mark {
    pub fn reach(&self) {
        *lock(&self.is_reached) = true;
        self.changed.notify_all();
    }

    fn is_reached(&self) -> bool {
        *lock(&self.is_reached)
    }

    pub fn wait(&self) {
        let mut is_reached = lock(&self.is_reached);
        while !*is_reached {
            is_reached = self
                .changed
                .wait(is_reached)
                .unwrap_or_else(|p| p.into_inner());
        }
    }
}

/// The place where it was last recorded.
#[derive(Default)]
pub struct Event(Mutex<Option<Arc<Mark>>>);

pub static STREAMS: Table<Stream> = Table::new();
pub static EVENTS: Table<Event> = Table::new();
/// Primary contexts that are retained: their number.
pub static RETAINED: AtomicI64 = AtomicI64::new(0);
/// Blocks by address.
static MEMORY: LazyLock<Mutex<HashMap<u64, Box<[u64]>>>> = LazyLock::new(Mutex::default);

thread_local! {
    /// Contexts that are current on this thread, the last one above all.
    static CURRENT: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

pub fn blocks() -> usize {
    lock(&MEMORY).len()
}

pub fn has_context() -> bool {
    CURRENT.with_borrow(|contexts| !contexts.is_empty())
}

/// Hands a stream its next task; stream 0, on which the host's own work runs, has none in the
/// background.
pub fn submit(stream: u64, task: impl FnOnce() + Send + 'static) -> Code {
    if stream == 0 {
        task();
        return SUCCESS;
    }
    let Some(stream) = STREAMS.get(stream) else {
        return INVALID_HANDLE;
    };
    lock(&stream.queue).tasks.push_back(Box::new(task));
    stream.changed.notify_all();
    SUCCESS
}

/// Writes to where a caller of the interface wants a result.
///
/// # Safety
/// `to` is null or may be written to.
unsafe fn answer<T>(to: *mut T, value: impl FnOnce() -> T) -> Code {
    if to.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: not null, and the rest is promised above.
    unsafe { to.write(value()) };
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(_flags: c_uint) -> Code {
    SUCCESS
}

/// # Safety
/// As for CUDA's function of that name, here and below.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> Code {
    if !(0..DEVICES).contains(&ordinal) {
        return INVALID_DEVICE;
    }
    // SAFETY: the caller's promise, here and below.
    unsafe { answer(device, || ordinal) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut u64, device: c_int) -> Code {
    RETAINED.fetch_add(1, Ordering::SeqCst);
    // SAFETY: see above.
    unsafe { answer(context, || device as u64 + 1) }
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> Code {
    RETAINED.fetch_sub(1, Ordering::SeqCst);
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPushCurrent_v2(context: u64) -> Code {
    CURRENT.with_borrow_mut(|contexts| contexts.push(context));
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxPopCurrent_v2(context: *mut u64) -> Code {
    match CURRENT.with_borrow_mut(Vec::pop) {
        // SAFETY: see above.
        Some(last) => unsafe { answer(context, || last) },
        None => INVALID_CONTEXT,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreate(stream: *mut u64, _flags: c_uint) -> Code {
    if !has_context() {
        return INVALID_CONTEXT;
    }
    let handle = STREAMS.open(Stream::default());
    if let Some(opened) = STREAMS.get(handle) {
        thread::spawn(move || opened.work());
    }
    // SAFETY: see above.
    unsafe { answer(stream, || handle) }
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: u64) -> Code {
    let Some(stream) = STREAMS.close(stream) else {
        return INVALID_HANDLE;
    };
    lock(&stream.queue).is_closed = true;
    stream.changed.notify_all();
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamQuery(stream: u64) -> Code {
    let Some(stream) = STREAMS.get(stream) else {
        return INVALID_HANDLE;
    };
    let queue = lock(&stream.queue);
    match queue.is_working || !queue.tasks.is_empty() {
        true => NOT_READY,
        false => SUCCESS,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: u64, event: u64, _flags: c_uint) -> Code {
    let Some(event) = EVENTS.get(event) else {
        return INVALID_HANDLE;
    };
    let mark = lock(&event.0).clone();
    mark.map_or(SUCCESS, |mark| submit(stream, move || mark.wait()))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(event: *mut u64, _flags: c_uint) -> Code {
    if !has_context() {
        return INVALID_CONTEXT;
    }
    // SAFETY: see above.
    unsafe { answer(event, || EVENTS.open(Event::default())) }
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: u64, stream: u64) -> Code {
    let Some(event) = EVENTS.get(event) else {
        return INVALID_HANDLE;
    };
    let mark = Arc::new(Mark::default());
    *lock(&event.0) = Some(mark.clone());
    submit(stream, move || mark.reach())
}

#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(event: u64) -> Code {
    let Some(event) = EVENTS.get(event) else {
        return INVALID_HANDLE;
    };
    let mark = lock(&event.0).clone();
    match mark.is_none_or(|mark| mark.is_reached()) {
        true => SUCCESS,
        false => NOT_READY,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: u64) -> Code {
    EVENTS.close(event).map_or(INVALID_HANDLE, |_| SUCCESS)
}

fn allocate(bytes: usize) -> u64 {
    let block = vec![0u64; bytes.div_ceil(8).max(1)].into_boxed_slice();
    let address = block.as_ptr() as u64;
    lock(&MEMORY).insert(address, block);
    address
}

fn release(address: u64) -> Code {
    if lock(&MEMORY).remove(&address).is_none() {
        misuse("memory that is freed and not allocated");
        return INVALID_VALUE;
    }
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> Code {
    if !has_context() {
        return INVALID_CONTEXT;
    }
    // SAFETY: see above.
    unsafe { answer(address, || allocate(bytes)) }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: u64) -> Code {
    if !has_context() {
        return INVALID_CONTEXT;
    }
    release(address)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostAlloc(address: *mut u64, bytes: usize, _flags: c_uint) -> Code {
    if !has_context() {
        return INVALID_CONTEXT;
    }
    // SAFETY: see above.
    unsafe { answer(address, || allocate(bytes)) }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(address: u64) -> Code {
    release(address)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: u64) -> Code {
    submit(stream, move || {
        let (to, from) = (to as *mut u8, from as *const u8);
        // SAFETY: the caller keeps both blocks until the stream has come past this task.
        unsafe { std::ptr::copy(from, to, bytes) };
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorName(code: Code, name: *mut *const c_char) -> Code {
    let text = match code {
        SUCCESS => c"CUDA_SUCCESS",
        INVALID_DEVICE => c"CUDA_ERROR_INVALID_DEVICE",
        INVALID_CONTEXT => c"CUDA_ERROR_INVALID_CONTEXT",
        INVALID_HANDLE => c"CUDA_ERROR_INVALID_HANDLE",
        NOT_READY => c"CUDA_ERROR_NOT_READY",
        _ => c"CUDA_ERROR_INVALID_VALUE",
    };
    // SAFETY: see above.
    unsafe { answer(name, || text.as_ptr()) }
}

/// Fills `count` f32 at `to`, in the stream's order.
pub fn fill(stream: u64, to: *mut c_void, count: usize, value: f32) -> Code {
    let to = to as usize;
    submit(stream, move || {
        // SAFETY: the test keeps the tensor until the stream has come past this task.
        unsafe { std::slice::from_raw_parts_mut(to as *mut f32, count) }.fill(value);
    })
}
