//! Putting a filter in force.
#![expect(unsafe_code, reason = "seccomp(2) has no safe wrapper")]

use std::io;

use kata_protocol::ttrpc::Status;

use super::assemble::Instruction;
use crate::process::Context as _;

/// A compiled filter.
#[derive(Clone)]
pub(crate) struct Filter {
    program: Vec<Instruction>,
    flags: u32,
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filter")
            .field("instructions", &self.program.len())
            .finish_non_exhaustive()
    }
}

impl Filter {
    pub(super) fn new(program: Vec<Instruction>, flags: u32) -> Self {
        Self { program, flags }
    }

    /// Puts the filter in force for the calling process, for ever.
    ///
    /// # Errors
    /// When the process may not, or the kernel has no seccomp filters.
    pub(crate) fn install(&self) -> Result<(), Status> {
        let length = libc::c_ushort::try_from(self.program.len())
            .map_err(io::Error::other)
            .context(|| "install the seccomp filter")?;
        let program = libc::sock_fprog {
            len: length,
            filter: self.program.as_ptr().cast_mut(),
        };
        // SAFETY: `program` points to `len` instructions that outlive the call;
        // the kernel copies and does not write them.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                self.flags,
                &raw const program,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error()).context(|| "install the seccomp filter");
        }
        Ok(())
    }
}
