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
mod process;
mod record;
mod step;
mod undo;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::id;

pub(crate) use dir::{Left, SandboxDir};
pub(crate) use process::ProcessId;
pub(crate) use record::{NetworkRecord, Record};
pub(crate) use step::Steps;

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
    /// A dead process has left a network there, to be torn down before another
    /// claim.
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
        match lock_stale(&path, record::read(&path).as_ref()) {
            Err(JournalError::InUse { owner, .. }) => Occupant::Process(owner),
            _ => Occupant::Dead,
        }
    }

    /// The ids of all sandboxes that have a directory.
    pub(crate) fn ids(&self) -> Result<Vec<String>> {
        if !self.0.is_dir() {
            return Ok(Vec::new());
        }
        let directories = self.directories()?;
        let records = directories.iter().filter_map(|path| record::read(path));
        let mut ids: Vec<_> = records.map(|record| record.id).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Whether sockets in that directory have paths short enough.
    pub(crate) fn sockets_fit(&self, id: &str) -> bool {
        self.run_dir(id).as_os_str().len() + 1 + SOCKET_NAME <= SOCKET_PATH
    }

    /// Makes the directory of a sandbox, with its lock held and its record
    /// written. Replaces one whose process is gone, unless that had a network:
    /// then it is taken over, to be torn down and removed first.
    pub(crate) fn claim(&self, record: &Record) -> Result<Claim> {
        let _sweeping = self.lock()?;
        let path = self.0.join(id::directory_name(&record.id));
        if path.symlink_metadata().is_ok() {
            let stale = record::read(&path);
            let lock = lock_stale(&path, stale.as_ref())?;
            if let Some(stale) = &stale {
                undo::undo(&path, stale)?;
            }
            let known = stale.unwrap_or_else(|| record.clone());
            let left = SandboxDir::new(path.clone(), lock, known, self.1.clone()).until_done();
            if left.record().network.is_some() {
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

    /// Removes the directories of sandboxes whose processes are gone, but for
    /// those with a network, which only a start can tear down. Returns the ids
    /// of what it removed; what cannot be removed harms nobody but its own id.
    pub(crate) fn sweep(&self) -> Result<Vec<String>> {
        self.check()?;
        if !self.0.exists() {
            return Ok(Vec::new());
        }
        let _sweeping = self.lock()?;
        let mut swept = Vec::new();
        self.sweep_halves()?;
        for path in self.directories()? {
            let record = record::read(&path);
            if record
                .as_ref()
                .is_some_and(|record| record.network.is_some())
            {
                continue;
            }
            match self.remove_stale(&path, record.as_ref()) {
                Ok(()) => swept.extend(record.map(|record| record.id)),
                Err(JournalError::InUse { .. }) => {}
                Err(error) => {
                    log::warn!(path:% = path.display(), error:%; "left behind by a dead process");
                }
            }
        }
        Ok(swept)
    }

    /// Takes over the directories of dead sandboxes that had a network, which
    /// is to be torn down before they are removed.
    pub(crate) fn with_networks(&self) -> Result<Vec<Left>> {
        if !self.0.is_dir() {
            return Ok(Vec::new());
        }
        let _sweeping = self.lock()?;
        let mut found = Vec::new();
        for path in self.directories()? {
            let Some(record) = record::read(&path).filter(|record| record.network.is_some()) else {
                continue;
            };
            match lock_stale(&path, Some(&record)) {
                Ok(lock) => {
                    undo::undo(&path, &record)?;
                    let dir = SandboxDir::new(path, lock, record, self.1.clone());
                    found.push(dir.until_done());
                }
                Err(JournalError::InUse { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// The directories of sandboxes: only what this code made is touched, and
    /// has a lock.
    fn directories(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.0).map_err(JournalError::io("list", &self.0))? {
            let entry = entry.map_err(JournalError::io("list", &self.0))?;
            let half = entry.file_name().as_encoded_bytes().starts_with(b".");
            if !half && entry.path().join(LOCK).is_file() {
                found.push(entry.path());
            }
        }
        Ok(found)
    }

    /// Removes what was half made or half removed.
    fn sweep_halves(&self) -> Result<()> {
        for entry in std::fs::read_dir(&self.0).map_err(JournalError::io("list", &self.0))? {
            let entry = entry.map_err(JournalError::io("list", &self.0))?;
            let name = entry.file_name();
            if name == NEW || name.as_encoded_bytes().starts_with(GONE.as_bytes()) {
                undo::remove_all(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Undoes all of a sandbox whose process is gone, but for its network.
    fn remove_stale(&self, path: &Path, record: Option<&Record>) -> Result<()> {
        let lock = lock_stale(path, record)?;
        let known = record.cloned().unwrap_or_else(|| Record::new("", None));
        if record.is_some() {
            undo::undo(path, &known)?;
        }
        SandboxDir::new(path.to_owned(), lock, known, self.1.clone()).remove()?;
        log::info!(path:% = path.display(); "removed what a dead process left");
        Ok(())
    }

    /// Checks that, where there is something of its name, it is a directory.
    pub(crate) fn check(&self) -> Result<()> {
        match std::fs::metadata(&self.0) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err(JournalError::NoDirectory(self.0.clone())),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) if source.kind() == io::ErrorKind::NotADirectory => {
                Err(JournalError::NoDirectory(self.0.clone()))
            }
            Err(source) => Err(JournalError::io("look at the state directory", &self.0)(
                source,
            )),
        }
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
