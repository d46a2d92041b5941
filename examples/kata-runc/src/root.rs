//! The directory below `--root`: one directory for each container, with its
//! `state.json`. All that commands know of each other is here.

use std::fs::DirBuilder;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};
use crate::lock::Lock;
use crate::state::Record;

const STATE: &str = "state.json";
/// The longest id: a file name's.
const LONGEST_ID: usize = 255;

/// The directory of all containers.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
}

/// A container's directory.
#[derive(Clone, Debug)]
pub(crate) struct ContainerDir {
    path: PathBuf,
}

/// A container that no other command changes meanwhile.
#[derive(Debug)]
pub(crate) struct Locked {
    pub(crate) directory: ContainerDir,
    pub(crate) record: Record,
    _lock: Lock,
}

impl Root {
    /// Opens the directory, which is made where missing.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let made = DirBuilder::new().mode(0o700).recursive(true).create(path);
        made.map_err(|error| Failure::io("mkdir", path, &error))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Reserves an id, and takes its lock.
    pub(crate) fn reserve(&self, id: &str) -> Result<(ContainerDir, Lock)> {
        let directory = self.directory(id)?;
        match DirBuilder::new().mode(0o711).create(&directory.path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Failure::new("container with given ID already exists"));
            }
            Err(error) => return Err(Failure::io("mkdir", &directory.path, &error)),
        }
        let lock = Lock::take(&directory.path)?.ok_or_else(Failure::no_container)?;
        Ok((directory, lock))
    }

    /// What is known of a container now.
    pub(crate) fn load(&self, id: &str) -> Result<Record> {
        self.directory(id)?.load()
    }

    /// A container, for a command that changes something. Waits for the
    /// command that is at it now.
    pub(crate) fn lock(&self, id: &str) -> Result<Locked> {
        let directory = self.directory(id)?;
        let lock = Lock::take(&directory.path)?.ok_or_else(Failure::no_container)?;
        let record = directory.load()?;
        Ok(Locked {
            directory,
            record,
            _lock: lock,
        })
    }

    /// What a `create` that was killed has left: a directory that says nothing.
    /// Waits for one that is still at work.
    pub(crate) fn remove_unfinished(&self, id: &str) -> Result<()> {
        let directory = self.directory(id)?;
        match Lock::take(&directory.path)? {
            Some(_lock) if directory.load().is_err() => directory.remove(),
            _ => Ok(()),
        }
    }

    /// All containers, by id.
    pub(crate) fn list(&self) -> Result<Vec<Record>> {
        let failed = |error: std::io::Error| Failure::io("open", &self.path, &error);
        let mut records = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(id) = name.to_str().filter(|id| is_id(id)) else {
                continue;
            };
            // What is being made or taken away has no state.
            if let Ok(record) = self.load(id) {
                records.push(record);
            }
        }
        records.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(records)
    }

    fn directory(&self, id: &str) -> Result<ContainerDir> {
        if !is_id(id) {
            return Err(Failure::new("invalid container ID format"));
        }
        Ok(ContainerDir {
            path: self.path.join(id),
        })
    }
}

impl ContainerDir {
    /// What is known of it.
    pub(crate) fn load(&self) -> Result<Record> {
        let path = self.path.join(STATE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Failure::no_container());
            }
            Err(error) => return Err(Failure::io("open", &path, &error)),
        };
        serde_json::from_slice(&bytes)
            .map_err(|error| Failure::new(format!("{} makes no sense: {error}", path.display())))
    }

    /// Writes what is known of it, at once or not at all.
    pub(crate) fn save(&self, record: &Record) -> Result<()> {
        let (path, next) = (self.path.join(STATE), self.path.join(".state.json.next"));
        let failed = |error: std::io::Error| Failure::io("write", &path, &error);
        let mut json = serde_json::to_vec_pretty(record).map_err(|e| failed(e.into()))?;
        json.push(b'\n');
        let mut options = std::fs::File::options();
        options.create(true).truncate(true).write(true).mode(0o600);
        let mut file = options.open(&next).map_err(failed)?;
        file.write_all(&json).map_err(failed)?;
        std::fs::rename(&next, &path).map_err(failed)
    }

    /// Takes it away. Idempotent.
    pub(crate) fn remove(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::io("remove", &self.path, &error))
            }
            _ => Ok(()),
        }
    }
}

/// Whether runc would take it: letters, digits and `_+-.`, and no way up.
fn is_id(id: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    !id.is_empty() && id.len() <= LONGEST_ID && id != "." && id != ".." && id.chars().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::record;

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(&directory.path().join("new/root")).unwrap();
        (directory, root)
    }

    #[test]
    fn what_is_saved_is_found_and_listed_until_it_is_removed() {
        let (_directory, root) = root();
        let (directory, lock) = root.reserve("c1").unwrap();
        assert_eq!(root.load("c1"), Err(Failure::no_container()));
        assert!(root.list().unwrap().is_empty());
        directory.save(&record()).unwrap();
        assert_eq!(root.load("c1").unwrap(), record());
        assert_eq!(root.list().unwrap(), [record()]);
        drop(lock);
        root.lock("c1").unwrap().directory.remove().unwrap();
        assert_eq!(root.lock("c1").unwrap_err(), Failure::no_container());
    }

    #[test]
    fn an_id_is_reserved_once() {
        let (_directory, root) = root();
        let _first = root.reserve("c1").unwrap();
        let error = root.reserve("c1").unwrap_err();
        assert_eq!(error.to_string(), "container with given ID already exists");
    }

    #[test]
    fn an_id_is_a_name_and_no_path() {
        let (_directory, root) = root();
        for id in ["", ".", "..", "a/b", "a b", "é", &"x".repeat(256)] {
            let error = root.load(id).unwrap_err();
            assert_eq!(error.to_string(), "invalid container ID format", "{id}");
        }
        for id in ["a", "-x", "_a+b-c.d"] {
            assert_eq!(root.load(id), Err(Failure::no_container()), "{id}");
        }
    }

    #[test]
    fn what_a_killed_create_left_is_removed_and_nothing_else() {
        let (_directory, root) = root();
        drop(root.reserve("half").unwrap());
        root.remove_unfinished("half").unwrap();
        root.remove_unfinished("never").unwrap();
        let (directory, lock) = root.reserve("half").unwrap();
        directory.save(&record()).unwrap();
        drop(lock);
        root.remove_unfinished("half").unwrap();
        assert!(root.load("half").is_ok());
    }
}
