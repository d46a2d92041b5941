//! The file systems of a running machine.

use std::ffi::CStr;
use std::io;

use rustix::fs::{Mode, mkdir, symlink};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use super::BootError;

struct Mount {
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    options: &'static CStr,
}

const SAFE: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

const PROC: Mount = Mount {
    kind: "proc",
    target: "/proc",
    flags: SAFE,
    options: c"",
};

const MOUNTS: [Mount; 5] = [
    Mount {
        kind: "devtmpfs",
        target: "/dev",
        flags: MountFlags::NOSUID,
        options: c"mode=0755",
    },
    Mount {
        kind: "sysfs",
        target: "/sys",
        flags: SAFE,
        options: c"",
    },
    Mount {
        kind: "tmpfs",
        target: "/run",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        options: c"mode=0755",
    },
    Mount {
        kind: "devpts",
        target: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: c"gid=5,mode=0620,ptmxmode=0666",
    },
    Mount {
        kind: "cgroup2",
        target: "/sys/fs/cgroup",
        flags: SAFE,
        options: c"nsdelegate,memory_recursiveprot",
    },
];

/// What programs look for in `/dev` besides devices.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Mounts `/proc`.
pub(super) fn proc() -> Result<(), BootError> {
    PROC.make()
}

/// Mounts the others.
pub(super) fn all() -> Result<(), BootError> {
    for entry in &MOUNTS {
        entry.make()?;
    }
    for (to, at) in LINKS {
        match symlink(to, at) {
            // devtmpfs has a device of that name, or the image the link.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => {
                return Err(BootError::File {
                    path: at.into(),
                    source: error.into(),
                });
            }
        }
    }
    Ok(())
}

impl Mount {
    fn make(&self) -> Result<(), BootError> {
        match self.attempt() {
            // The kernel mounts devtmpfs itself when it starts from a disk.
            Ok(()) | Err(Errno::BUSY) => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn attempt(&self) -> Result<(), Errno> {
        let try_mount = |options| mount(self.kind, self.target, self.kind, self.flags, options);
        match try_mount(self.options) {
            Err(Errno::NOENT) => {
                mkdir(self.target, Mode::from_raw_mode(0o755))?;
                try_mount(self.options)
            }
            // An older kernel does not know every option.
            Err(Errno::INVAL) if !self.options.is_empty() => try_mount(c""),
            other => other,
        }
    }

    fn failed(&self, error: Errno) -> BootError {
        BootError::Mount {
            kind: self.kind,
            target: self.target,
            source: io::Error::from(error),
        }
    }
}
