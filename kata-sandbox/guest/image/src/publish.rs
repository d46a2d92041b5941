//! Directories that appear complete or not at all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use crate::Error;

/// A directory that is being filled beside the place where it will be; removed
/// when dropped before it is published. A lock on it tells others, in other
/// containers too, that it is in use.
#[derive(Debug)]
pub(crate) struct Draft {
    directory: PathBuf,
    target: PathBuf,
    _lock: fs::File,
}

impl Draft {
    /// Begins the directory `target`, making those above it and removing drafts
    /// of it that a killed process has left.
    pub(crate) fn begin(target: &Path) -> Result<Self, Error> {
        /// Tells drafts of one process apart.
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let target = std::path::absolute(target).map_err(Error::write(target))?;
        let parent = target.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(Error::write(parent))?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        remove_abandoned(parent, &format!(".{name}."));
        loop {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            let directory = parent.join(format!(".{name}.{}.{serial}.tmp", std::process::id()));
            match fs::create_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => {
                    return Err(Error::Write {
                        path: directory,
                        source,
                    });
                }
                Ok(()) => {
                    if let Some(lock) = lock(&directory).map_err(Error::write(&directory))? {
                        return Ok(Self {
                            directory,
                            target,
                            _lock: lock,
                        });
                    }
                }
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }

    /// Writes a file of this directory, through to the disk.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, Error> {
        use io::Write as _;
        let path = self.directory.join(name);
        let write = || {
            let mut file = fs::File::create(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(Error::write(&path))?;
        Ok(path)
    }

    /// Moves the directory to its place, in place of what is there.
    pub(crate) fn publish(self) -> Result<PathBuf, Error> {
        let error = Error::write(&self.target);
        match renameat_with(
            CWD,
            &self.directory,
            CWD,
            &self.target,
            RenameFlags::NOREPLACE,
        ) {
            Ok(()) => {}
            // Another one is there: swap, and drop what was swapped out.
            Err(rustix::io::Errno::EXIST) => {
                renameat_with(
                    CWD,
                    &self.directory,
                    CWD,
                    &self.target,
                    RenameFlags::EXCHANGE,
                )
                .map_err(|errno| error(errno.into()))?;
            }
            Err(errno) => return Err(error(errno.into())),
        }
        Ok(self.target.clone())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After publishing there is nothing, or what was swapped out. A rest that
        // cannot be removed now is removed by the next draft.
        drop(fs::remove_dir_all(&self.directory));
    }
}

/// Held while something costly is made, so that it is made once.
#[derive(Debug)]
pub(crate) struct Turn {
    _lock: fs::File,
}

impl Turn {
    /// Waits until nobody else makes `target`; calls `waiting` if that may take a
    /// while. Ends when dropped, or with the process.
    pub(crate) fn wait(target: &Path, waiting: impl FnOnce()) -> Result<Self, Error> {
        let parent = target.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(Error::write(parent))?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = parent.join(format!(".{name}.lock"));
        let file = fs::File::options().append(true).create(true).open(&path);
        let file = file.map_err(Error::write(&path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::AGAIN) => {
                waiting();
                flock(&file, FlockOperation::LockExclusive)
            }
            other => other,
        }
        .map_err(|errno| Error::write(&path)(errno.into()))?;
        Ok(Self { _lock: file })
    }
}

/// Locks a new draft; `None` when another process took it for an abandoned one
/// and removed it in the moment before it was locked.
fn lock(directory: &Path) -> io::Result<Option<fs::File>> {
    let file = match fs::File::open(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::AGAIN) => return Ok(None),
        other => other?,
    }
    Ok(directory.exists().then_some(file))
}

/// Removes drafts that nobody has locked. What cannot be removed stays.
fn remove_abandoned(parent: &Path, prefix: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(prefix) && name.ends_with(".tmp") {
            let locked = fs::File::open(entry.path()).and_then(|file| {
                flock(&file, FlockOperation::NonBlockingLockExclusive)?;
                Ok(file)
            });
            if locked.is_ok() {
                drop(fs::remove_dir_all(entry.path()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_directory_appears_when_it_is_published() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("a/image");
        let draft = Draft::begin(&target).unwrap();
        draft.write("file", b"new").unwrap();
        assert!(!target.exists());
        draft.publish().unwrap();
        assert_eq!(fs::read(target.join("file")).unwrap(), b"new");
        assert_eq!(names(&root.path().join("a")), ["image"]);
    }

    #[test]
    fn a_directory_replaces_the_one_before_it() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("image");
        for content in ["old", "new"] {
            let draft = Draft::begin(&target).unwrap();
            draft.write(content, b"").unwrap();
            draft.publish().unwrap();
        }
        assert_eq!(names(&target), ["new"]);
        assert_eq!(names(root.path()), ["image"]);
    }

    #[test]
    fn a_directory_that_is_given_up_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        drop(Draft::begin(&root.path().join("image")).unwrap());
        assert_eq!(names(root.path()), Vec::<String>::new());
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_is_in_use_is_not() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("image");
        let in_use = Draft::begin(&target).unwrap();
        fs::create_dir(root.path().join(".image.1.0.tmp")).unwrap();
        fs::write(root.path().join(".image.1.0.tmp/file"), b"half").unwrap();
        let second = Draft::begin(&target).unwrap();
        assert!(!root.path().join(".image.1.0.tmp").exists());
        assert!(in_use.path().exists() && second.path().exists());
    }

    #[test]
    fn one_at_a_time_has_the_turn() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("kernels/one");
        let first = Turn::wait(&target, || unreachable!("nobody else is here")).unwrap();
        let (sender, waited) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| Turn::wait(&target, || sender.send(()).unwrap()));
            waited.recv().unwrap();
            drop(first);
            second.join().unwrap().unwrap();
        });
    }

    #[test]
    fn many_at_once_leave_one_whole_directory() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("image");
        std::thread::scope(|scope| {
            for writer in 0..8_u8 {
                let target = &target;
                scope.spawn(move || {
                    for _ in 0..20 {
                        let draft = Draft::begin(target).unwrap();
                        draft.write("a", &[writer]).unwrap();
                        draft.write("b", &[writer]).unwrap();
                        draft.publish().unwrap();
                    }
                });
            }
        });
        assert_eq!(
            fs::read(target.join("a")).unwrap(),
            fs::read(target.join("b")).unwrap()
        );
        assert_eq!(names(root.path()), ["image"]);
    }
}
