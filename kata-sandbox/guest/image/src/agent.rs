//! The agent's binary, checked before it becomes pid 1 of a guest.

use std::path::Path;

use crate::elf::Elf;
use crate::{Architecture, Error};

/// Reads the agent at `path`, a static program for `architecture`.
pub(crate) fn read(path: &Path, architecture: Architecture) -> Result<Vec<u8>, Error> {
    let bytes = std::fs::read(path).map_err(Error::read(path))?;
    let not_elf = |source| Error::Agent {
        path: path.to_owned(),
        source,
    };
    let elf = Elf::parse(&bytes).map_err(not_elf)?;
    if elf.architecture() != Ok(architecture) {
        return Err(Error::AgentArchitecture {
            path: path.to_owned(),
            wanted: architecture,
        });
    }
    if !elf.is_static().map_err(not_elf)? {
        return Err(Error::AgentNotStatic {
            path: path.to_owned(),
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::elf;

    #[test]
    fn an_agent_that_cannot_run_in_the_guest_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent");
        for (bytes, expected) in [
            (b"#!/bin/sh".to_vec(), "not a program"),
            (elf(183, 1, ".text", b""), "not built for x86_64"),
            (elf(62, 3, ".interp", b""), "crt-static"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = read(&path, Architecture::X86_64).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_static_agent_is_read_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent");
        let bytes = elf(62, 1, ".text", b"code");
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path, Architecture::X86_64).unwrap(), bytes);
    }
}
