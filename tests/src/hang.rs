//! A device that hangs, as a driver may: one thread of a process stands still, and all its others go on,
//! so that the process stays connected, is heard of, and has nothing done.
//!
//! The thread is held by the system's interface for debuggers, from outside: the program knows nothing
//! of it.
#![allow(unsafe_code)]

use anyhow::{Context, Result, bail, ensure};
use libc::{c_uint, pid_t};
use std::io::Error;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The name of the thread that all of a device's work runs on.
const DEVICE: &str = "device";

/// Pause between looks at the thread.
const LOOK: Duration = Duration::from_millis(5);

/// Time limit for a thread to wait for something, and to be held then.
const HOLD_LIMIT: Duration = Duration::from_secs(30);

/// A device that hangs. It goes on when this is dropped, unless its process has ended.
#[derive(Debug)]
pub struct Hang {
    /// Closed when it is to go on.
    hold: Option<Sender<()>>,
    /// The thread that holds another one has to live as long.
    holder: Option<JoinHandle<Result<()>>>,
}

impl Hang {
    /// Has the device of a process hang, which has to be of this process's making, or of the same user
    /// where the system lets users' processes look at each other.
    ///
    /// # Errors
    /// When the process has no such thread, or the system does not let it be held.
    pub fn of(process: u32) -> Result<Self> {
        let thread = device_thread(process)?;
        let (hold, goes_on) = channel();
        let (tell, told) = channel();
        let holder = std::thread::spawn(move || {
            let is_held = take(process, thread);
            let is_failed = is_held.is_err();
            // Whoever asked waits for it.
            let _ = tell.send(is_held);
            match is_failed {
                true => Ok(()),
                false => keep(thread, &goes_on),
            }
        });
        let hang = Self {
            hold: Some(hold),
            holder: Some(holder),
        };
        told.recv().context("the thread that holds ended")??;
        Ok(hang)
    }

    /// Lets the device go on.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn end(mut self) -> Result<()> {
        self.release()
    }

    fn release(&mut self) -> Result<()> {
        drop(self.hold.take());
        match self.holder.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended,
            Some(Err(_)) => bail!("the thread that holds another one panicked"),
            None => Ok(()),
        }
    }
}

impl Drop for Hang {
    fn drop(&mut self) {
        let _ = self.release();
    }
}

/// The thread of a process that its device's work runs on.
fn device_thread(process: u32) -> Result<pid_t> {
    let tasks = PathBuf::from(format!("/proc/{process}/task"));
    let listed = std::fs::read_dir(&tasks);
    for task in listed.with_context(|| format!("cannot list {}", tasks.display()))? {
        let task = task?;
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.trim_end() == DEVICE {
            return Ok(task.file_name().to_string_lossy().parse()?);
        }
    }
    bail!("process {process} has no thread called {DEVICE}")
}

/// Holds a thread at a moment when it waits for something: one that is held with the allocator's lock
/// would hold up all others.
fn take(process: u32, thread: pid_t) -> Result<()> {
    let cannot = "the device's thread cannot be held";
    trace(libc::PTRACE_SEIZE, thread).context(cannot)?;
    let until = Instant::now() + HOLD_LIMIT;
    while !waits(process, thread)? {
        ensure!(Instant::now() < until, "the device's thread never waits");
        std::thread::sleep(LOOK);
    }
    trace(libc::PTRACE_INTERRUPT, thread).context(cannot)?;
    while change(thread)? == Change::None {
        ensure!(Instant::now() < until, "the device's thread is not held");
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Whether a thread sleeps: `ID (NAME) STATE …`.
fn waits(process: u32, thread: pid_t) -> Result<bool> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/task/{thread}/stat"))?;
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    Ok(state == Some('S'))
}

/// Keeps a thread held until it is to go on, or its process ends: that has to be taken note of, or the
/// process stays behind as a zombie.
fn keep(thread: pid_t, goes_on: &Receiver<()>) -> Result<()> {
    while let Err(RecvTimeoutError::Timeout) = goes_on.recv_timeout(LOOK) {
        if change(thread)? == Change::Ended {
            return Ok(());
        }
    }
    match trace(libc::PTRACE_DETACH, thread) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
            while change(thread)? != Change::Ended {
                std::thread::sleep(LOOK);
            }
            Ok(())
        }
        detached => Ok(detached?),
    }
}

/// Makes a request for a thread that takes no arguments.
fn trace(request: c_uint, thread: pid_t) -> Result<(), Error> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: these requests read and write no memory of this process.
    match unsafe { libc::ptrace(request, thread, none, none) } {
        -1 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}

/// News of a thread.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    None,
    Stopped,
    Ended,
}

/// Takes note of what has become of a thread, without waiting for it.
fn change(thread: pid_t) -> Result<Change> {
    let mut status = 0;
    // SAFETY: `status` lives, and nothing else is written to.
    match unsafe { libc::waitpid(thread, &mut status, libc::__WALL | libc::WNOHANG) } {
        -1 => Err(Error::last_os_error()).context("nothing is known of the device's thread"),
        0 => Ok(Change::None),
        _ if libc::WIFSTOPPED(status) => Ok(Change::Stopped),
        _ => Ok(Change::Ended),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::path::Path;
    use std::process::{Command, Stdio};

    const FOLDER: &str = "HANG_TEST_FOLDER";

    /// As it is told: adds to a file in each of two threads, one of which is called as a device's is.
    #[test]
    fn a_program_with_a_device() {
        let Some(folder) = std::env::var_os(FOLDER) else {
            return;
        };
        let folder = PathBuf::from(folder);
        let count = |name: &str| {
            let path = folder.join(name);
            move || loop {
                let file = OpenOptions::new().create(true).append(true).open(&path);
                file.unwrap().write_all(b".").unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let device = std::thread::Builder::new().name(DEVICE.to_owned());
        device.spawn(count(DEVICE)).unwrap();
        count("other")();
    }

    #[test]
    fn a_device_hangs_while_the_rest_of_its_process_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "hang::tests::a_program_with_a_device"])
            .env(FOLDER, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let count = |name: &str| {
            let found = std::fs::metadata(Path::join(dir.path(), name));
            found.map_or(0, |found| found.len())
        };
        let grows = |name: &str| {
            let before = count(name);
            while count(name) < before + 20 {
                std::thread::yield_now();
            }
        };
        grows(DEVICE);
        let hang = Hang::of(child.id()).unwrap();
        let before = count(DEVICE);
        grows("other");
        assert_eq!(count(DEVICE), before, "it stands still");
        hang.end().unwrap();
        grows(DEVICE);

        // A process that ends with its device held leaves nothing behind.
        let hang = Hang::of(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        hang.end().unwrap();
        assert!(Hang::of(child.id()).is_err());
    }
}
