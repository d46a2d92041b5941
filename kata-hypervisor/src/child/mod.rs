//! A monitor that runs as a child process.
//!
//! Each child has a keeper: a thread that forks it, drains its standard output
//! and error into bounded tails, reaps it (and only it) through its pidfd, then
//! gives back what was lent to it. The kernel sends the child a SIGKILL when
//! the thread that forked it ends (`PR_SET_PDEATHSIG` looks at the thread, not
//! at the process), which is why that thread has to be one of ours and lives as
//! long as the child: a child dies with its embedder, and never with some
//! worker thread of the embedder's.
//!
//! ```text
//!  Child::spawn ──▶ keeper thread: fork+exec ─▶ poll(pidfd, output, support) ─▶ reap
//!      ▲                                                                          │
//!      └── Child (kill on drop) ◀───────────── watch: End ◀── drop what was lent ◀┘
//! ```
//!
//! A child whose [`Support`] fails while it lives cannot go on, though it may
//! not notice: its keeper kills it, and its end says why.

mod confine;
mod end;
mod keeper;
mod spawn;
mod support;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::process::{Pid, Signal, pidfd_send_signal};
use tokio::sync::{oneshot, watch};

pub(crate) use confine::{Confinement, Namespaces, User};
pub(crate) use end::End;
pub(crate) use spawn::Program;
pub(crate) use support::{Failure, Support};

use crate::console::{CONSOLE_TAIL, Tail};
use crate::error::{Error, Result};

/// How much of a monitor's standard error is kept.
const STDERR_TAIL: usize = 8 << 10;

/// A running monitor. Dropping it kills the process; its keeper cleans up.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    pidfd: Arc<OwnedFd>,
    output: Arc<Output>,
    killed: AtomicBool,
    ended: watch::Receiver<Option<End>>,
}

/// What a child wrote.
#[derive(Debug)]
pub(crate) struct Output {
    /// Standard output: the guest's console.
    pub(crate) console: Tail,
    /// Standard error: the monitor's complaints.
    pub(crate) stderr: Tail,
}

impl Default for Output {
    fn default() -> Self {
        Self {
            console: Tail::new(CONSOLE_TAIL),
            stderr: Tail::new(STDERR_TAIL),
        }
    }
}

impl Child {
    /// Starts `program`. When the future is dropped, or fails, no process stays.
    pub(crate) async fn spawn(
        program: Program,
        name: &str,
        lent: Box<dyn Support>,
    ) -> Result<Self> {
        let path = program.path.clone();
        let (reply, started) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("vmm-{name}"))
            .stack_size(128 << 10)
            .spawn(move || keeper::keep(program, lent, reply))
            .map_err(|source| Error::Host {
                operation: format!("start a thread to watch over {}", path.display()),
                source,
            })?;
        match started.await {
            Ok(result) => result.map_err(|source| Error::Spawn {
                program: path,
                source,
            }),
            Err(_) => unreachable_keeper(),
        }
    }

    /// Its process id. Only good for looking at `/proc`: signals go through the pidfd.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// What it has written so far.
    pub(crate) fn output(&self) -> &Arc<Output> {
        &self.output
    }

    /// When the first byte came over the console.
    pub(crate) fn first_console_byte(&self) -> Option<Instant> {
        self.output.console.first()
    }

    /// Kills it. Idempotent; a child that has ended already is left in peace.
    pub(crate) fn kill(&self) {
        if self.end().is_some() || self.killed.swap(true, Ordering::AcqRel) {
            return;
        }
        // ESRCH: it is a zombie that the keeper is about to reap.
        let _ = pidfd_send_signal(&*self.pidfd, Signal::KILL);
    }

    /// Whether [`kill`](Self::kill) found it alive.
    pub(crate) fn was_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// How it ended, if it has.
    pub(crate) fn end(&self) -> Option<End> {
        self.ended.borrow().clone()
    }

    /// Waits until it has been reaped and all that was lent to it is gone.
    pub(crate) async fn ended(&self) -> End {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(End::Unknown),
            Err(_) => End::Unknown,
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

fn unreachable_keeper<T>() -> Result<T> {
    Err(Error::Host {
        operation: "start a process".to_owned(),
        source: std::io::Error::other("the thread that starts it panicked"),
    })
}

#[cfg(test)]
mod tests;
