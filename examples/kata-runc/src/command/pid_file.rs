//! The file that a caller reads a process id from.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// Writes it at once or not at all: a caller may be waiting for it.
pub(super) fn write(path: Option<&str>, pid: u32) -> Result<()> {
    let Some(path) = path.map(Path::new) else {
        return Ok(());
    };
    let failed = |error: std::io::Error| Failure::io("open", path, &error);
    let next = next(path).ok_or_else(|| Failure::new(format!("{} is no file", path.display())))?;
    std::fs::write(&next, pid.to_string()).map_err(failed)?;
    std::fs::rename(&next, path).map_err(failed)
}

fn next(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_string_lossy();
    Some(path.with_file_name(format!(".{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_holds_the_number_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        write(path.to_str(), 42).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "42");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(write(None, 1).is_ok());
        assert!(write(Some("/nonexistent/pid"), 1).is_err());
    }
}
