//! Copies of the agent: clone3(2), without a thread or a helper process.
#![expect(
    unsafe_code,
    reason = "clone3, close_range and signal resets have no safe wrapper"
)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Pid;
use rustix::thread::UnshareFlags;

use super::reaper::{self, Child};

static IS_COPY: AtomicBool = AtomicBool::new(false);

/// Whether this process is a copy of the agent, whose failure is its own alone.
pub(crate) fn is_copy() -> bool {
    IS_COPY.load(Ordering::Relaxed)
}

/// What a copy of the agent is born with.
#[derive(Debug, Default)]
pub(crate) struct Copy<'a> {
    /// New namespaces, as `CLONE_NEW…` flags.
    pub(crate) namespaces: i32,
    /// The cgroup it starts in; the agent's own if `None`.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// The descriptors it keeps, besides the three standard ones.
    pub(crate) keep: Vec<RawFd>,
}

/// Runs `body` in a copy of this process, which ends with the returned status.
///
/// The copy has this process's memory as it is now, and of its descriptors only
/// those in [`Copy::keep`]. The agent has one thread; were there another that
/// holds the allocator's lock, the copy would hang.
///
/// # Errors
/// What clone3(2) says.
pub(crate) fn clone_self(copy: &Copy<'_>, body: impl FnOnce() -> i32) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    let args = CloneArgs {
        flags: flag(libc::CLONE_PIDFD)
            | flag(copy.namespaces)
            | copy.cgroup.map_or(0, |_| CLONE_INTO_CGROUP),
        pidfd: (&raw mut pidfd).expose_provenance() as u64,
        exit_signal: flag(libc::SIGCHLD),
        cgroup: copy.cgroup.map_or(0, |fd| flag(fd.as_raw_fd())),
        ..CloneArgs::default()
    };
    // SAFETY: `args` is a valid clone_args of the given size whose `pidfd`
    // points to a live descriptor-sized variable. Without CLONE_VM the child
    // has memory of its own and goes on with a copy of this stack.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            IS_COPY.store(true, Ordering::Relaxed);
            close_all_but(&copy.keep);
            let status = catch_unwind(AssertUnwindSafe(body)).unwrap_or(101);
            // SAFETY: ends the copy without running the agent's destructors.
            unsafe { libc::_exit(status) }
        }
        pid => {
            // SAFETY: the kernel just made this descriptor for us alone.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = i32::try_from(pid)
                .ok()
                .and_then(Pid::from_raw)
                .ok_or_else(|| io::Error::other("clone3 returned an impossible process id"))?;
            Ok(reaper::register(pid, pidfd))
        }
    }
}

/// In a copy: runs `body` in a process of its own that is the agent's child, as
/// the copy is, in the pid namespace that the copy has chosen for its children.
/// Gives its process id. What the copy has given up, the process does not have.
///
/// # Errors
/// What clone(2) says; a seccomp filter may forbid it.
pub(super) fn clone_successor(body: impl FnOnce() -> i32) -> io::Result<i32> {
    debug_assert!(is_copy());
    // clone3 has no place in the filters of today: they cannot look into its
    // arguments.
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    // SAFETY: without CLONE_VM the child has memory of its own and goes on with
    // a copy of this stack; the other arguments are not used with these flags.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(flags), 0, 0, 0, 0) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let status = catch_unwind(AssertUnwindSafe(body)).unwrap_or(101);
            // SAFETY: ends the process without running the agent's destructors.
            unsafe { libc::_exit(status) }
        }
        pid => i32::try_from(pid).map_err(io::Error::other),
    }
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// A C int whose bits are wanted (`CLONE_IO` is the sign bit), widened.
fn flag(value: i32) -> u64 {
    u64::from(value.cast_unsigned())
}

/// Closes every descriptor from 3 on that is not in `keep`.
fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep
        .iter()
        .filter(|fd| **fd > 2)
        .map(|fd| fd.cast_unsigned())
        .collect();
    keep.sort_unstable();
    let mut next = 3;
    for fd in keep {
        if fd > next {
            close_range(next, fd - 1);
        }
        next = fd + 1;
    }
    close_range(next, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: this runs in a copy of the agent that ends by execve or _exit, so
    // no owner of a closed descriptor ever uses or closes it again.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Leaves namespaces of the agent's for new ones.
///
/// # Errors
/// What unshare(2) says.
pub(crate) fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    debug_assert!(!namespaces.contains(UnshareFlags::FILES));
    // SAFETY: only descriptors that stop being shared are a danger, and they
    // are not asked to: there is no thread to share them with.
    Ok(unsafe { rustix::thread::unshare_unsafe(namespaces) }?)
}

/// Gives a copy that becomes another program a program's usual start: default
/// signal dispositions, no signal blocked, a session of its own.
///
/// # Errors
/// When the kernel refuses, which it has no reason to.
pub(crate) fn detach_from_agent() -> io::Result<()> {
    reset_signals()?;
    rustix::process::setsid()?;
    Ok(())
}

/// The same without the session.
///
/// # Errors
/// When the kernel refuses, which it has no reason to.
pub(crate) fn reset_signals() -> io::Result<()> {
    // SAFETY: plain calls on initialized sets; the copy has no other thread.
    // Handlers are reset by execve; only what is ignored would be inherited,
    // and Rust's runtime ignores SIGPIPE.
    unsafe {
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        if libc::signal(libc::SIGPIPE, libc::SIG_DFL) == libc::SIG_ERR
            || libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) != 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{WaitId, WaitIdOptions, waitid};

    #[test]
    fn a_copy_knows_that_it_is_one() {
        let child = clone_self(&Copy::default(), || i32::from(!is_copy())).unwrap();
        let ended = waitid(WaitId::PidFd(child.pidfd()), WaitIdOptions::EXITED);
        assert_eq!(ended.unwrap().unwrap().exit_status(), Some(0));
        assert!(!is_copy());
    }
}
