//! Where QEMU is.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Where distributions put it, for a program that runs with a poor `PATH`.
const USUAL: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/usr/libexec"];

/// The first executable of one of these names in `path` (the variable's value)
/// or the usual directories.
pub(super) fn search(names: &[&str], path: Option<&OsStr>) -> Option<PathBuf> {
    let listed = path.map(std::env::split_paths).into_iter().flatten();
    let directories: Vec<PathBuf> = listed
        .filter(|dir| dir.is_absolute())
        .chain(USUAL.map(PathBuf::from))
        .collect();
    names.iter().find_map(|name| {
        directories
            .iter()
            .map(|dir| dir.join(name))
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
        let path = std::env::join_paths([empty.path(), full.path()]).unwrap();
        assert_eq!(search(&["no-such-thing", "sh"], Some(&path)), Some(file));
    }

    #[test]
    fn a_file_that_cannot_be_executed_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("vmm-of-mine"), "").unwrap();
        assert_eq!(search(&["vmm-of-mine"], Some(dir.path().as_os_str())), None);
    }

    #[test]
    fn relative_directories_are_not_searched() {
        assert_eq!(
            search(&["Cargo.toml", "no-such-thing"], Some(OsStr::new("."))),
            None
        );
    }
}
