//! Forking a monitor so that it has exactly what it should.
#![expect(
    unsafe_code,
    reason = "what happens between fork and exec cannot be said safely"
)]

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

use super::confine::Confinement;
use crate::inherit;

/// A program to run, with an empty environment and no descriptor but these.
#[derive(Debug)]
pub(crate) struct Program {
    /// The file to execute.
    pub(crate) path: PathBuf,
    /// Its arguments, without the zeroth.
    pub(crate) args: Vec<OsString>,
    /// What it inherits beside the standard three, under the same numbers.
    pub(crate) inherit: Vec<OwnedFd>,
    /// The `cgroup.procs` of the control groups that it is in from the start.
    pub(crate) cgroup: Vec<OwnedFd>,
    /// How it is kept apart from the host.
    pub(crate) confinement: Confinement,
}

/// A freshly forked program and the read ends of its output.
pub(super) struct Forked {
    pub(super) pid: Pid,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Program {
    /// Forks and executes. The child dies with the calling thread.
    pub(super) fn fork(self) -> io::Result<Forked> {
        let (stdout, stdout_child) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, stderr_child) = pipe_with(PipeFlags::CLOEXEC)?;
        for end in [&stdout, &stderr] {
            rustix::io::ioctl_fionbio(end, true)?;
        }
        let mut command = Command::new(&self.path);
        command
            .args(&self.args)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(stdout_child)
            .stderr(stderr_child)
            // A terminal's Ctrl-C is for the embedder to act on.
            .process_group(0);
        let parent = getpid();
        let inherit: Vec<RawFd> = self.inherit.iter().map(AsRawFd::as_raw_fd).collect();
        let cgroup: Vec<RawFd> = self.cgroup.iter().map(AsRawFd::as_raw_fd).collect();
        let confinement = self.confinement;
        // SAFETY: the closure runs in the forked child before exec. It makes
        // only system calls, allocates nothing and takes no lock: the lists were
        // allocated before the fork, and errors are plain numbers.
        unsafe { command.pre_exec(move || prepare(parent, &inherit, &cgroup, &confinement)) };
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        // Dropping a `std::process::Child` neither kills nor reaps it.
        drop(child);
        Ok(Forked {
            pid,
            stdout,
            stderr,
        })
    }
}

/// Runs in the child, between fork and exec: system calls only.
fn prepare(
    parent: Pid,
    fds: &[RawFd],
    cgroup: &[RawFd],
    confinement: &Confinement,
) -> io::Result<()> {
    for &procs in cgroup {
        // SAFETY: the parent owns `procs` across the fork, so it is open here too.
        let procs = unsafe { BorrowedFd::borrow_raw(procs) };
        // The process that writes is meant by its number 0.
        rustix::io::write(procs, b"0")?;
    }
    confinement.enter()?;
    // The kernel forgets it when the user changes.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Some(parent) {
        // The parent died before the line above could notice.
        return Err(Errno::SRCH.into());
    }
    rustix::thread::set_no_new_privs(true)?;
    inherit::nothing_from(3);
    for &fd in fds {
        // SAFETY: the parent owns `fd` across the fork, so it is open here too.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        fcntl_setfd(fd, FdFlags::empty())?;
    }
    Ok(())
}
