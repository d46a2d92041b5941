//! Where QEMU is.
//!
//! A library reads no environment: where a program keeps its QEMU elsewhere, it
//! says so.

use std::path::{Path, PathBuf};

/// Where administrators and distributions put it.
pub(super) const USUAL: [&str; 5] = [
    "/usr/local/bin",
    "/usr/bin",
    "/usr/libexec",
    "/run/current-system/sw/bin",
    "/usr/pkg/bin",
];

/// The first executable of one of these names in the directories.
pub(super) fn search(names: &[&str], directories: &[impl AsRef<Path>]) -> Option<PathBuf> {
    names.iter().find_map(|name| {
        directories
            .iter()
            .map(|directory| directory.as_ref().join(name))
            .find(|file| is_executable(file))
    })
}

/// Whether this user may execute the file.
fn is_executable(file: &Path) -> bool {
    file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_directory_with_an_executable_wins() {
        let (empty, full) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = full.path().join("sh");
        std::os::unix::fs::symlink("/bin/sh", &file).unwrap();
        let directories = [empty.path(), full.path(), Path::new("/bin")];
        assert_eq!(search(&["no-such-thing", "sh"], &directories), Some(file));
    }

    #[test]
    fn a_file_that_cannot_be_executed_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("vmm-of-mine"), "").unwrap();
        assert_eq!(search(&["vmm-of-mine"], &[dir.path()]), None);
    }
}
