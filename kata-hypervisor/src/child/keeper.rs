//! The thread that watches over one child.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use tokio::sync::{oneshot, watch};

use super::spawn::{Forked, Program};
use super::{Child, End, Output, Support};
use crate::console::Tail;

/// What is still read from a dead child's pipes: they hold 64 KiB each, and a
/// grandchild that keeps one open must not keep the keeper.
const LAST_WORDS: usize = 128 << 10;

/// Starts the program, says so, and stays until it has been reaped.
pub(super) fn keep(
    program: Program,
    lent: Box<dyn Support>,
    started: oneshot::Sender<io::Result<Child>>,
) {
    let forked = match program.fork() {
        Ok(forked) => forked,
        Err(error) => {
            // What was lent goes before anybody hears of the failure.
            drop(lent);
            let _ = started.send(Err(error));
            return;
        }
    };
    let pidfd = match pidfd_open(forked.pid, PidfdFlags::empty()) {
        Ok(pidfd) => Arc::new(pidfd),
        Err(errno) => {
            abandon(&forked);
            drop(lent);
            let _ = started.send(Err(errno.into()));
            return;
        }
    };
    let output = Arc::new(Output::default());
    let (publish, ended) = watch::channel(None);
    let child = Child {
        pid: forked.pid,
        pidfd: Arc::clone(&pidfd),
        output: Arc::clone(&output),
        killed: AtomicBool::new(false),
        ended,
    };
    // A dropped future: the child comes back, and dropping it kills it.
    drop(started.send(Ok(child)));
    let failed = drain(&pidfd, forked, &output, &*lent);
    let end = match (reap(&pidfd), failed) {
        // It died of what was done to it here, and not by itself in between.
        (End::Signalled(signal), Some(reason)) if signal == Signal::KILL.as_raw() => {
            End::LetDown(reason)
        }
        (end, _) => end,
    };
    drop(lent);
    publish.send_replace(Some(end));
}

/// Kills and reaps a child that has no pidfd.
fn abandon(forked: &Forked) {
    let _ = rustix::process::kill_process(forked.pid, Signal::KILL);
    let _ = waitid(WaitId::Pid(forked.pid), WaitIdOptions::EXITED);
}

/// Moves output into the tails until the child is dead. Answers what it was
/// killed for, if it was killed here.
fn drain(
    pidfd: &OwnedFd,
    forked: Forked,
    output: &Output,
    support: &dyn Support,
) -> Option<String> {
    let mut pipes = [
        (Some(forked.stdout), &output.console),
        (Some(forked.stderr), &output.stderr),
    ];
    let mut buffer = vec![0; 16 << 10];
    let mut patience = Patience::Unlimited;
    loop {
        let dead = wait_for_news(pidfd, &pipes, support, &patience);
        for (pipe, tail) in &mut pipes {
            let budget = if dead { LAST_WORDS } else { buffer.len() };
            if pipe
                .as_ref()
                .is_some_and(|fd| !take(fd, tail, &mut buffer, budget))
            {
                *pipe = None;
            }
        }
        if dead {
            return patience.killed_for();
        }
        patience.review(support, pidfd);
    }
}

/// What is known of the child's support, and what follows.
enum Patience {
    /// It stands.
    Unlimited,
    /// It has failed: the child has until then to die of it.
    Until(Instant),
    /// The child was killed, for this reason.
    Over(String),
}

impl Patience {
    fn review(&mut self, support: &dyn Support, pidfd: &OwnedFd) {
        if let Self::Over(_) = self {
            return;
        }
        let Some(failure) = support.failure() else {
            return;
        };
        let until = match *self {
            Self::Until(until) => until,
            _ => Instant::now() + failure.patience,
        };
        if Instant::now() < until && !failure.patience.is_zero() {
            *self = Self::Until(until);
            return;
        }
        // ESRCH: it is dead, and about to be reaped.
        let _ = pidfd_send_signal(pidfd, Signal::KILL);
        *self = Self::Over(failure.reason);
    }

    fn killed_for(self) -> Option<String> {
        match self {
            Self::Over(reason) => Some(reason),
            _ => None,
        }
    }

    /// How long to wait for news at most.
    fn left(&self) -> Option<Timespec> {
        let Self::Until(until) = self else {
            return None;
        };
        let left = until.saturating_duration_since(Instant::now());
        Some(Timespec::try_from(left).expect("seconds, not centuries"))
    }
}

/// Blocks until the child is dead (true), or there is output, a failure of its
/// support, or no more patience (false).
fn wait_for_news(
    pidfd: &OwnedFd,
    pipes: &[(Option<OwnedFd>, &Tail)],
    support: &dyn Support,
    patience: &Patience,
) -> bool {
    let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
    let open = pipes.iter().filter_map(|(pipe, _)| pipe.as_ref());
    fds.extend(open.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    if let Patience::Unlimited = patience {
        let bells = support.bells().into_iter();
        fds.extend(bells.map(|bell| PollFd::from_borrowed_fd(bell, PollFlags::IN)));
    }
    match poll(&mut fds, patience.left().as_ref()) {
        Ok(_) => !fds[0].revents().is_empty(),
        Err(Errno::INTR) => false,
        // Out of memory, at most: waiting for the end still works.
        Err(_) => true,
    }
}

/// Reads at most `budget` bytes; false at the end of the stream.
fn take(pipe: &OwnedFd, tail: &Tail, buffer: &mut [u8], budget: usize) -> bool {
    let mut taken = 0;
    while taken < budget {
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) => return false,
            Ok(n) => {
                tail.push(&buffer[..n]);
                taken += n;
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
    true
}

/// Collects the status of this child and of no other.
fn reap(pidfd: &OwnedFd) -> End {
    loop {
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => return End::from(status),
            Ok(None) | Err(Errno::INTR) => {}
            // The embedder ignores SIGCHLD, or reaps whatever it finds.
            Err(_) => return End::Unknown,
        }
    }
}
