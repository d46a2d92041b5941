//! What a sandbox has on the host, written down before it is made.
//!
//! Each sandbox has a directory of its own in the state directory:
//!
//! ```text
//!   <state>/.lock                held while a directory is made or swept
//!   <state>/.new/                a sandbox's directory, until it is complete
//!   <state>/.gone-…/             one that is being removed
//!   <state>/<sandbox>/lock       held by the process that runs the sandbox
//!   <state>/<sandbox>/state.json what to undo when that process has died
//!   <state>/<sandbox>/control    the socket of a supervisor
//!   <state>/<sandbox>/vm/        sockets of the machine
//! ```
//!
//! A sandbox's directory comes and goes by its name: it is there with all that
//! it says, or not at all, wherever a process dies.
//!
//! A lock that can be taken means that its process is gone: the kernel lets go
//! of it however the process ends, so no process id can be mistaken.

mod dir;
mod place;
mod process;
mod record;
mod step;
mod sweep;
mod undo;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::id;

pub(crate) use dir::{Left, SandboxDir};
pub(crate) use process::ProcessId;
pub(crate) use record::{HooksRecord, NetworkRecord, Record};
pub(crate) use step::Steps;
pub(crate) use sweep::Failed;

use dir::VM;

const LOCK: &str = "lock";
const SWEEP_LOCK: &str = ".lock";
/// What a directory is called until it is complete.
const NEW: &str = ".new";
/// What those are called that are being removed, and something of their own.
const GONE: &str = ".gone-";
/// Bytes of a unix socket's path, without the NUL.
const SOCKET_PATH: usize = 107;
/// Bytes that a socket's name below the machine's directory may have.
const SOCKET_NAME: usize = 24;

/// Why a sandbox's directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("{} is in use", path.display())]
    InUse { path: PathBuf, owner: Option<u32> },
    #[error("{} is not a directory", .0.display())]
    NoDirectory(PathBuf),
    #[error("{} {fault}", path.display())]
    NotOurs { path: PathBuf, fault: String },
    #[error("{} cannot be read: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("cannot {operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl JournalError {
    fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            operation,
            path: path.to_owned(),
            source,
        }
    }
}

type Result<T> = std::result::Result<T, JournalError>;

/// What a claim of a sandbox's directory comes to.
#[derive(Debug)]
pub(crate) enum Claim {
    /// It is the claimant's.
    New(SandboxDir),
    /// A dead process has left there what only a runtime can undo, before
    /// another claim.
    Stale(Left),
}

/// Who has a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occupant {
    /// There is none.
    Nobody,
    /// A process that is gone.
    Dead,
    /// A process that runs: that one, where it is known.
    Process(Option<u32>),
}

/// The directory in which sandboxes have theirs.
#[derive(Clone, Debug)]
pub(crate) struct StateDir(PathBuf, Steps);

impl StateDir {
    pub(crate) fn new(path: PathBuf, steps: Steps) -> Self {
        Self(path, steps)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn steps(&self) -> &Steps {
        &self.1
    }

    /// The sandbox's own directory.
    pub(crate) fn directory(&self, id: &str) -> PathBuf {
        self.0.join(id::directory_name(id))
    }

    /// Where the sandbox's machine has its sockets.
    pub(crate) fn run_dir(&self, id: &str) -> PathBuf {
        self.directory(id).join(VM)
    }

    /// Who has the sandbox of that id.
    pub(crate) fn occupant(&self, id: &str) -> Occupant {
        let path = self.directory(id);
        // Only what this code made has a lock, and it is made under that of
        // the state directory: who waits for it sees all or nothing.
        let Ok(_sweeping) = self.lock() else {
            return Occupant::Nobody;
        };
        if !path.join(LOCK).is_file() {
            return Occupant::Nobody;
        }
        match lock_stale(&path, record::read(&path).ok().flatten().as_ref()) {
            Err(JournalError::InUse { owner, .. }) => Occupant::Process(owner),
            _ => Occupant::Dead,
        }
    }

    /// Whether sockets in that directory have paths short enough.
    pub(crate) fn sockets_fit(&self, id: &str) -> bool {
        self.run_dir(id).as_os_str().len() + 1 + SOCKET_NAME <= SOCKET_PATH
    }

    /// Makes the directory of a sandbox, with its lock held and its record
    /// written. Replaces one whose process is gone, unless only a runtime can
    /// finish with that: then it is taken over, to be finished and removed first.
    pub(crate) fn claim(&self, record: &Record) -> Result<Claim> {
        let _sweeping = self.lock()?;
        let path = self.0.join(id::directory_name(&record.id));
        if path.symlink_metadata().is_ok() {
            let (lock, stale) = sweep::take_over(&path)?;
            if let Some(stale) = &stale {
                undo::undo(&path, stale)?;
            }
            let known = stale.unwrap_or_else(|| record.clone());
            let left = SandboxDir::new(path.clone(), lock, known, self.1.clone()).until_done();
            if left.record().needs_a_runtime() {
                return Ok(Claim::Stale(left));
            }
            left.remove()?;
        }
        // Under the lock of the state directory, there is one new one at most.
        let new = self.0.join(NEW);
        undo::remove_all(&new)?;
        make_dir(&new)?;
        self.1.reach("directory made");
        let made = lock_new(&new).and_then(|lock| {
            self.1.reach("directory locked");
            let dir = SandboxDir::new(new.clone(), lock, record.clone(), self.1.clone());
            dir.fill()?;
            dir.settle(path)
        });
        if made.is_err() {
            // Whatever there is has no guard, and what fails here is swept.
            drop(undo::remove_all(&new));
        }
        made.map(Claim::New)
    }

    fn lock(&self) -> Result<File> {
        self.check()?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .map_err(JournalError::io("make the state directory", &self.0))?;
        let path = self.0.join(SWEEP_LOCK);
        let file = open(&path).map_err(JournalError::io("open", &path))?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .map_err(|errno| JournalError::io("lock", &path)(errno.into()))?;
        Ok(file)
    }
}

/// Locks a directory that was just made, under the lock of the state directory.
fn lock_new(directory: &Path) -> Result<File> {
    let path = directory.join(LOCK);
    try_lock(&path)
        .map_err(JournalError::io("lock", &path))?
        .ok_or(JournalError::InUse { path, owner: None })
}

fn make_dir(path: &Path) -> Result<()> {
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(JournalError::io("make", path))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Takes the lock, or answers `None` when somebody has it.
fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let file = open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Locks a directory whose process is gone.
fn lock_stale(directory: &Path, record: Option<&Record>) -> Result<File> {
    let path = directory.join(LOCK);
    let attempt = || try_lock(&path).map_err(JournalError::io("lock", &path));
    if let Some(lock) = attempt()? {
        return Ok(lock);
    }
    // A process that was killed lets go of its descriptors one by one: whoever
    // heard of its end by one of them may be here before the lock is free.
    if let Some(record) = record
        && record.owner.is_dying()
        && record.owner.wait(undo::DYING).is_ok()
        && let Some(lock) = attempt()?
    {
        return Ok(lock);
    }
    Err(JournalError::InUse {
        path: directory.to_owned(),
        owner: record.map(|record| record.owner.pid),
    })
}

#[cfg(test)]
mod tests;
