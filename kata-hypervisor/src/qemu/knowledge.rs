//! What was found out about a QEMU and its host, for other processes.
//!
//! To ask a QEMU what it can takes a start of it, and the rate of the time stamp
//! counter some time; both stay what they are while the program's file is not
//! touched and the host runs. Whether KVM works is looked at by every process:
//! that changes with permissions.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::probe::Answers;

/// The kernel's name for the time since the host was started.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What one process has found out, and what it holds for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Knowledge {
    pub(super) mark: Mark,
    pub(super) answers: Answers,
    /// The rate of the counter that emulated guests read.
    pub(super) tsc_khz: Option<u64>,
}

/// By which a program that was not touched is known, on a host that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    program: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    boot: String,
}

impl Mark {
    /// That of a program, as it is now.
    pub(super) fn of(program: &Path) -> Option<Self> {
        let found = fs::metadata(program).ok()?;
        Some(Self {
            program: program.to_owned(),
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
            boot: fs::read_to_string(BOOT_ID).ok()?,
        })
    }
}

impl Knowledge {
    /// Whether it is of the program that is there now.
    pub(super) fn is_of(&self, mark: Option<&Mark>) -> bool {
        mark == Some(&self.mark)
    }
}

#[cfg(test)]
mod tests {
    use super::super::version::Version;
    use super::*;

    #[test]
    fn what_was_known_of_a_program_that_was_touched_does_not_hold() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("qemu");
        fs::write(&program, "one").unwrap();
        let knowledge = Knowledge {
            mark: Mark::of(&program).unwrap(),
            answers: Answers {
                version: Version::OLDEST,
                devices: Vec::new(),
                machines: Vec::new(),
                sandbox: true,
                kvm: false,
            },
            tsc_khz: None,
        };
        assert!(knowledge.is_of(Mark::of(&program).as_ref()));
        fs::write(&program, "three").unwrap();
        assert!(!knowledge.is_of(Mark::of(&program).as_ref()));
        fs::remove_file(&program).unwrap();
        assert!(!knowledge.is_of(Mark::of(&program).as_ref()));
    }

    #[test]
    fn it_survives_its_text() {
        let program = std::env::current_exe().unwrap();
        let knowledge = Knowledge {
            mark: Mark::of(&program).unwrap(),
            answers: Answers {
                version: Version::OLDEST,
                devices: vec!["a".into()],
                machines: Vec::new(),
                sandbox: false,
                kvm: true,
            },
            tsc_khz: Some(1),
        };
        let text = serde_json::to_string(&knowledge).unwrap();
        assert_eq!(serde_json::from_str::<Knowledge>(&text).unwrap(), knowledge);
    }
}
