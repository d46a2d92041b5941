//! A file that whoever opens it waits for: the host's way to be slow.
#![expect(unsafe_code, reason = "leases have no safe calls")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

/// `F_SETSIG`.
const SET_SIGNAL: libc::c_int = 10;

/// A file under a lease. Opening it waits until this is dropped, but no longer
/// than the host lets it (`/proc/sys/fs/lease-break-time`, 45 s).
pub(crate) struct Lease {
    /// Closing it gives the lease back.
    _file: File,
}

impl Lease {
    /// `None`, aloud, where the host grants none.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let fd = file.as_raw_fd();
        // The news that somebody waits is a signal that does nothing.
        // SAFETY: there are no pointers.
        let granted = unsafe {
            libc::fcntl(fd, SET_SIGNAL, libc::SIGURG) == 0
                && libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK) == 0
        };
        if !granted {
            let error = std::io::Error::last_os_error();
            eprintln!("skipped: no lease of {}: {error}", path.display());
        }
        granted.then_some(Self { _file: file })
    }
}
