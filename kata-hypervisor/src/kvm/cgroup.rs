//! Control groups of machines that are threads of this process.
//!
//! A machine's threads are where their process is, and cannot be put elsewhere.
//! So a group is had exactly when this process is in it: a supervisor is, who
//! entered its sandbox's group before it made the machine.

use std::fs;
use std::path::{Path, PathBuf};

use super::NAME;
use crate::error::{Error, Result};

/// Checks that this process is in each of these groups, named by `cgroup.procs`.
pub(super) fn check(groups: &[PathBuf]) -> Result<()> {
    let own = std::process::id().to_string();
    for procs in groups {
        if !holds(procs, &own)? {
            return Err(Error::Unsupported {
                backend: NAME,
                operation: "control groups that this process is not in: its machines are threads",
            });
        }
    }
    Ok(())
}

fn holds(procs: &Path, process: &str) -> Result<bool> {
    let listed = fs::read_to_string(procs).map_err(|source| Error::File {
        what: "the control group",
        path: procs.to_owned(),
        source,
    })?;
    Ok(listed.lines().any(|line| line == process))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_had_when_this_process_is_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let procs = directory.path().join("cgroup.procs");
        let groups = [procs.clone()];
        fs::write(&procs, format!("1\n{}\n", std::process::id())).unwrap();
        check(&groups).unwrap();
        // A number that only begins with ours is another's.
        fs::write(&procs, format!("1\n{}0\n", std::process::id())).unwrap();
        let error = check(&groups).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        fs::remove_file(&procs).unwrap();
        let error = check(&groups).unwrap_err();
        assert!(error.to_string().contains("cgroup.procs"), "{error}");
        check(&[]).unwrap();
    }
}
