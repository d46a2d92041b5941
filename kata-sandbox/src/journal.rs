//! What a sandbox has on the host, written down before it is made.
//!
//! Each sandbox has a directory of its own in the state directory:
//!
//! ```text
//!   <state>/.lock                held while a directory is made or swept
//!   <state>/<sandbox>/lock       held by the process that runs the sandbox
//!   <state>/<sandbox>/state.json what to undo when that process has died
//!   <state>/<sandbox>/vm/        sockets of the machine
//! ```
//!
//! A lock that can be taken means that its process is gone: the kernel lets go
//! of it however the process ends, so no process id can be mistaken.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::id;

const LOCK: &str = "lock";
const RECORD: &str = "state.json";
const SWEEP_LOCK: &str = ".lock";
/// The machine's own directory.
const VM: &str = "vm";
/// Version of the record's format.
const VERSION: u32 = 1;
/// Bytes of a unix socket's path, without the NUL.
const SOCKET_PATH: usize = 107;
/// Bytes that a socket's name below the machine's directory may have.
const SOCKET_NAME: usize = 24;

/// What is written down about a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// The sandbox's id, which the directory's name may abbreviate.
    pub(crate) id: String,
    /// The process that runs it, for people: the lock decides.
    pub(crate) pid: u32,
    /// When that process began, in clock ticks since boot.
    start_time: Option<u64>,
    /// The boot of the host in which all this is.
    boot_id: Option<String>,
    /// The network to be torn down, by name.
    pub(crate) network: Option<String>,
}

impl Record {
    pub(crate) fn new(id: &str, network: Option<&str>) -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        Self {
            version: VERSION,
            id: id.to_owned(),
            pid: std::process::id(),
            start_time: start_time(),
            boot_id: boot_id.map(|id| id.trim().to_owned()),
            network: network.map(str::to_owned),
        }
    }
}

/// Field 22 of this process's `stat`, counted after the command's parenthesis.
fn start_time() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// Why a sandbox's directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("{} is in use", path.display())]
    InUse { path: PathBuf, owner: Option<u32> },
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

/// The directory in which sandboxes have theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateDir(PathBuf);

impl StateDir {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Where the sandbox's machine has its sockets.
    pub(crate) fn run_dir(&self, id: &str) -> PathBuf {
        self.0.join(id::directory_name(id)).join(VM)
    }

    /// Whether sockets in that directory have paths short enough.
    pub(crate) fn sockets_fit(&self, id: &str) -> bool {
        self.run_dir(id).as_os_str().len() + 1 + SOCKET_NAME <= SOCKET_PATH
    }

    /// Makes the directory of a sandbox, with its lock held and its record
    /// written. Replaces one whose process is gone; what its record says was
    /// on the network is returned, to be torn down.
    pub(crate) fn claim(&self, record: &Record) -> Result<(SandboxDir, Option<Record>)> {
        let _sweeping = self.lock()?;
        let path = self.0.join(id::directory_name(&record.id));
        let stale = if path.symlink_metadata().is_ok() {
            remove_stale(&path)?
        } else {
            None
        };
        make_dir(&path)?;
        // From here on, the guard removes what was made.
        let mut dir = SandboxDir { path, lock: None };
        let lock_path = dir.path.join(LOCK);
        dir.lock = match try_lock(&lock_path).map_err(JournalError::io("lock", &lock_path))? {
            Some(lock) => Some(lock),
            None => {
                return Err(JournalError::InUse {
                    path: lock_path,
                    owner: None,
                });
            }
        };
        dir.write(record)?;
        make_dir(&dir.path.join(VM))?;
        Ok((dir, stale))
    }

    /// Removes the directories of sandboxes whose processes are gone, but for
    /// those with a network, which only a start can tear down. Returns the ids
    /// of what it removed.
    pub(crate) fn sweep(&self) -> Result<Vec<String>> {
        if !self.0.is_dir() {
            return Ok(Vec::new());
        }
        let _sweeping = self.lock()?;
        let mut swept = Vec::new();
        let entries = std::fs::read_dir(&self.0).map_err(JournalError::io("list", &self.0))?;
        for entry in entries {
            let path = entry.map_err(JournalError::io("list", &self.0))?.path();
            // Only what this code made is touched: it has a lock.
            if !path.join(LOCK).is_file() {
                continue;
            }
            let record = read(&path);
            if record
                .as_ref()
                .is_some_and(|record| record.network.is_some())
            {
                continue;
            }
            match remove_stale(&path) {
                Ok(_) => swept.extend(record.map(|record| record.id)),
                Err(JournalError::InUse { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(swept)
    }

    /// Takes over the directories of dead sandboxes that had a network, which
    /// is to be torn down before they are removed.
    pub(crate) fn with_networks(&self) -> Result<Vec<(SandboxDir, Record)>> {
        if !self.0.is_dir() {
            return Ok(Vec::new());
        }
        let _sweeping = self.lock()?;
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.0).map_err(JournalError::io("list", &self.0))? {
            let path = entry.map_err(JournalError::io("list", &self.0))?.path();
            let Some(record) = read(&path).filter(|record| record.network.is_some()) else {
                continue;
            };
            let lock = path.join(LOCK);
            let lock = try_lock(&lock).map_err(JournalError::io("lock", &lock))?;
            if lock.is_some() {
                found.push((SandboxDir { path, lock }, record));
            }
        }
        Ok(found)
    }

    fn lock(&self) -> Result<File> {
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

/// Removes a sandbox's directory if its process is gone.
fn remove_stale(path: &Path) -> Result<Option<Record>> {
    let record = read(path);
    let lock_path = path.join(LOCK);
    match try_lock(&lock_path).map_err(JournalError::io("lock", &lock_path))? {
        Some(_lock) => {
            std::fs::remove_dir_all(path).map_err(JournalError::io("remove", path))?;
            log::info!(path:% = path.display(); "removed what a dead process left");
            Ok(record)
        }
        None => {
            let owner = record.map(|record| record.pid);
            Err(JournalError::InUse {
                path: path.to_owned(),
                owner,
            })
        }
    }
}

fn read(path: &Path) -> Option<Record> {
    serde_json::from_slice(&std::fs::read(path.join(RECORD)).ok()?).ok()
}

/// The directory of a sandbox that this process runs. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct SandboxDir {
    path: PathBuf,
    lock: Option<File>,
}

impl SandboxDir {
    /// Where the machine may put its sockets.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.path.join(VM)
    }

    fn write(&self, record: &Record) -> Result<()> {
        let new = self.path.join("state.json.new");
        let json = serde_json::to_vec_pretty(record).expect("a record has nothing but strings");
        let mut file = open(&new).map_err(JournalError::io("make", &new))?;
        let written = file.write_all(&json).and_then(|()| file.sync_all());
        written.map_err(JournalError::io("write", &new))?;
        std::fs::rename(&new, self.path.join(RECORD)).map_err(JournalError::io("rename", &new))
    }

    /// Removes the directory and lets go of its lock.
    ///
    /// # Errors
    /// Names what could not be removed; nothing is tried again on drop.
    pub(crate) fn remove(mut self) -> Result<()> {
        self.take_away()
    }

    /// Leaves the directory for a later process to clean up.
    pub(crate) fn leave(mut self) {
        self.lock = None;
    }

    fn take_away(&mut self) -> Result<()> {
        // The lock goes last: until then, nobody takes the directory for stale.
        let _lock = self.lock.take();
        match std::fs::remove_dir_all(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(JournalError::io("remove", &self.path)(source))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for SandboxDir {
    fn drop(&mut self) {
        if self.lock.is_some()
            && let Err(error) = self.take_away()
        {
            log::warn!(error:%; "left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, StateDir) {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::new(directory.path().join("state"));
        (directory, state)
    }

    #[test]
    fn a_claimed_directory_is_private_recorded_and_gone_after_the_guard() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_directory, state) = state();
        let (dir, stale) = state.claim(&Record::new("a", None)).unwrap();
        assert_eq!(stale, None);
        let path = dir.path.clone();
        assert_eq!(read(&path).unwrap(), Record::new("a", None));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert!(dir.run_dir().is_dir());
        drop(dir);
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_in_use_is_neither_claimed_nor_swept() {
        let (_directory, state) = state();
        let (_dir, _) = state.claim(&Record::new("a", None)).unwrap();
        let error = state.claim(&Record::new("a", None)).unwrap_err();
        let owner = std::process::id();
        assert!(
            matches!(&error, JournalError::InUse { owner: Some(pid), .. } if *pid == owner),
            "{error}"
        );
        assert!(state.sweep().unwrap().is_empty());
    }

    #[test]
    fn what_a_dead_process_left_is_swept_or_claimed_anew() {
        let (_directory, state) = state();
        for id in ["a", "b"] {
            state.claim(&Record::new(id, None)).unwrap().0.leave();
        }
        let (dir, stale) = state.claim(&Record::new("b", None)).unwrap();
        assert_eq!(stale.unwrap().id, "b");
        assert_eq!(state.sweep().unwrap(), ["a"]);
        dir.remove().unwrap();
        let left: Vec<_> = std::fs::read_dir(state.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}"); // the sweep's own lock
    }

    #[test]
    fn a_network_is_left_for_a_start_to_tear_down() {
        let (_directory, state) = state();
        state
            .claim(&Record::new("a", Some("cni")))
            .unwrap()
            .0
            .leave();
        assert!(state.sweep().unwrap().is_empty());
        let found = state.with_networks().unwrap();
        assert_eq!(found[0].1.id, "a");
        found.into_iter().for_each(|(dir, _)| dir.leave());
        let (_dir, stale) = state.claim(&Record::new("a", None)).unwrap();
        assert_eq!(stale.unwrap().network.as_deref(), Some("cni"));
    }

    #[test]
    fn a_sweep_leaves_alone_what_is_not_its_own() {
        let (_directory, state) = state();
        assert!(state.sweep().unwrap().is_empty());
        std::fs::create_dir_all(state.path().join("somebody's")).unwrap();
        assert!(state.sweep().unwrap().is_empty());
        assert!(state.path().join("somebody's").is_dir());
    }

    #[test]
    fn a_crash_before_the_lock_leaves_what_the_next_claim_replaces() {
        let (_directory, state) = state();
        std::fs::create_dir_all(state.path().join("a")).unwrap();
        state.claim(&Record::new("a", None)).unwrap();
    }

    #[test]
    fn long_ids_still_have_short_socket_paths() {
        let id = "x".repeat(255);
        assert!(StateDir::new("/run/user/1000/kata".into()).sockets_fit(&id));
        assert!(!StateDir::new(format!("/{}", "d".repeat(90)).into()).sockets_fit("a"));
    }
}
