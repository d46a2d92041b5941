//! Whom the state directory belongs to.
//!
//! What its records say is done: processes are ended, directories removed, hooks
//! run. Nobody else may write there, nor put another directory in its place.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use rustix::process::geteuid;

use super::{JournalError, Result, StateDir};

/// Write permission of the group and of all others.
const WRITABLE_BY_OTHERS: u32 = 0o022;

impl StateDir {
    /// Checks that, where there is something of its name, it is a directory,
    /// this user's, and for nobody else to write to.
    pub(crate) fn check(&self) -> Result<()> {
        let path = self.path();
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() || found.is_symlink() => fault(&found, geteuid().as_raw())
                .map_or(Ok(()), |fault| {
                    let path = path.to_owned();
                    Err(JournalError::NotOurs { path, fault })
                }),
            Ok(_) => Err(JournalError::NoDirectory(path.to_owned())),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) if source.kind() == io::ErrorKind::NotADirectory => {
                Err(JournalError::NoDirectory(path.to_owned()))
            }
            Err(source) => Err(JournalError::io("look at the state directory", path)(
                source,
            )),
        }
    }
}

/// What is wrong with a directory for state, if anything is.
fn fault(found: &Metadata, own: u32) -> Option<String> {
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    if found.is_symlink() {
        Some("is a symbolic link".to_owned())
    } else if owner != own {
        Some(format!("is user {owner}'s, and this process is user {own}"))
    } else if mode & WRITABLE_BY_OTHERS != 0 {
        Some(format!("can be written to by others (mode {mode:04o})"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::journal::Steps;

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::new(directory.path().join("s"), Steps::default());
        state.sweep().unwrap();
        std::fs::create_dir(state.path()).unwrap();
        for (mode, good) in [
            (0o700, true),
            (0o755, true),
            (0o775, false),
            (0o702, false),
            (0o1777, false),
        ] {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(state.path(), mode).unwrap();
            let refused = state.sweep().err();
            assert_eq!(refused.is_none(), good, "{refused:?}");
            if let Some(error) = refused {
                assert!(
                    error.to_string().contains("written to by others"),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn a_link_in_place_of_the_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("s");
        symlink(directory.path(), &link).unwrap();
        let error = StateDir::new(link, Steps::default()).sweep().unwrap_err();
        assert!(error.to_string().ends_with("is a symbolic link"), "{error}");
    }

    #[test]
    fn another_users_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let found = directory.path().symlink_metadata().unwrap();
        assert_eq!(fault(&found, found.uid()), None);
        let fault = fault(&found, found.uid() + 1).unwrap();
        assert!(fault.contains("and this process is user"), "{fault}");
    }
}
