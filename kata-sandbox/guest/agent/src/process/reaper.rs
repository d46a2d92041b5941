//! Collecting exit statuses.
//!
//! The agent is pid 1 (or a subreaper), so besides its own children it gets
//! every orphan of its pid namespace. One task collects all of them: the status
//! of a child is kept in its [`Child`] for as long as anyone holds that, an
//! orphan's is dropped. As cloning, registering and collecting happen on one
//! thread, no status can be missed, and no process id is used after its reuse.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use log::warn;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use tokio::signal::unix::SignalKind;
use tokio::sync::Notify;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// A child of the agent.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    pid: Pid,
    pidfd: Rc<OwnedFd>,
    end: Rc<End>,
}

#[derive(Debug, Default)]
struct End {
    exit: Cell<Option<Exit>>,
    changed: Notify,
}

thread_local! {
    static CHILDREN: RefCell<HashMap<Pid, Rc<End>>> = RefCell::default();
}

/// Starts to follow a child that was just cloned.
pub(super) fn register(pid: Pid, pidfd: OwnedFd) -> Child {
    let end = Rc::new(End::default());
    CHILDREN.with_borrow_mut(|children| children.insert(pid, Rc::clone(&end)));
    Child {
        pid,
        pidfd: Rc::new(pidfd),
        end,
    }
}

/// Starts to follow a child that a copy of the agent made for it. It may have
/// ended, but must not have been collected: nobody would know how it ended.
///
/// # Errors
/// When there is no such child, or it is one that is followed.
pub(super) fn adopt(pid: i32) -> io::Result<Child> {
    let none = || io::Error::other("there is no such child");
    let pid = Pid::from_raw(pid).ok_or_else(none)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let is_child = parent.is_some_and(|parent| parent.trim().parse() == Ok(own));
    if !is_child || CHILDREN.with_borrow(|children| children.contains_key(&pid)) {
        return Err(none());
    }
    Ok(register(pid, pidfd))
}

/// Collects the children of this process for as long as it lives, in a local
/// task. To be called once, within a [`tokio::task::LocalSet`].
///
/// # Errors
/// When the signal handler cannot be installed.
pub(crate) fn watch() -> io::Result<tokio::task::AbortHandle> {
    let mut ended = tokio::signal::unix::signal(SignalKind::child())?;
    let task = tokio::task::spawn_local(async move {
        collect();
        while ended.recv().await.is_some() {
            collect();
        }
    });
    Ok(task.abort_handle())
}

fn collect() {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let exit = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Exit::Code(code),
                    (None, Some(signal)) => Exit::Signal(signal),
                    (None, None) => continue,
                };
                // An orphan is nobody's: its status goes nowhere.
                let end = CHILDREN.with_borrow_mut(|children| children.remove(&pid));
                if let Some(end) = end {
                    end.exit.set(Some(exit));
                    end.changed.notify_waiters();
                }
            }
            Ok(None) | Err(rustix::io::Errno::CHILD) => return,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                warn!(error:%; "cannot collect exit statuses");
                return;
            }
        }
    }
}

impl Child {
    /// Its id in the agent's pid namespace.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Its pidfd.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// How it ended, if it has.
    pub(crate) fn exited(&self) -> Option<Exit> {
        self.end.exit.get()
    }

    /// Waits until it has ended. Any number of callers may wait.
    pub(crate) async fn wait(&self) -> Exit {
        loop {
            let changed = self.end.changed.notified();
            if let Some(exit) = self.exited() {
                return exit;
            }
            changed.await;
        }
    }

    /// Sends a signal; a process that has ended takes none, which is no error.
    ///
    /// # Errors
    /// When the kernel refuses the signal.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
