//! Processes that are written down, so that nobody takes another for them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process, by all that tells it apart from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: u32,
    /// When it began, in clock ticks since boot.
    start_time: Option<u64>,
    /// The boot of the host in which it began.
    boot_id: Option<String>,
}

impl ProcessId {
    /// The process that has that id now.
    pub(crate) fn of(pid: u32) -> Self {
        Self {
            pid,
            start_time: start_time(pid),
            boot_id: boot_id(),
        }
    }

    /// Whether it is still there, and is the same.
    fn is_there(&self) -> bool {
        self.boot_id == boot_id()
            && self.start_time.is_some()
            && start_time(self.pid) == self.start_time
    }

    /// Sees to it that the process has ended: kills it, unless it is dying
    /// already, and waits so long at most.
    ///
    /// # Errors
    /// When it cannot be killed, or does not end in time.
    pub(crate) fn end(&self, limit: Duration) -> io::Result<()> {
        let Some(pidfd) = self.open()? else {
            return Ok(());
        };
        match pidfd_send_signal(&pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
        ended(&pidfd, limit)
    }

    /// Whether it ends just now, and still has what it had open.
    pub(crate) fn is_dying(&self) -> bool {
        self.boot_id == boot_id()
            && stat(self.pid).is_some_and(|stat| {
                Some(stat.start) == self.start_time
                    && (stat.state == "Z" || stat.flags & EXITING != 0)
            })
    }

    /// Waits until the process has ended by itself, unless it is this one.
    ///
    /// # Errors
    /// When it does not end in time.
    pub(crate) fn wait(&self, limit: Duration) -> io::Result<()> {
        if self.pid == std::process::id() {
            return Ok(());
        }
        let raw = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        // Its first thread may have ended while others still end: that is not
        // all of it, which the descriptor knows.
        let Some(Ok(pidfd)) = raw.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
            return Ok(());
        };
        let is_it = self.boot_id == boot_id()
            && stat(self.pid).is_some_and(|stat| Some(stat.start) == self.start_time);
        if is_it { ended(&pidfd, limit) } else { Ok(()) }
    }

    /// The process, if it is there.
    fn open(&self) -> io::Result<Option<OwnedFd>> {
        let raw = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let Some(pid) = raw.filter(|_| self.is_there()) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        // What was opened may be another, if the first has ended since.
        Ok(self.is_there().then_some(pidfd))
    }
}

fn ended(pidfd: &OwnedFd, limit: Duration) -> io::Result<()> {
    let limit = Timespec::try_from(limit).expect("seconds, not centuries");
    loop {
        let mut ends = [PollFd::new(pidfd, PollFlags::IN)];
        match poll(&mut ends, Some(&limit)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// When a process began. One whose first thread has ended is still there: its
/// others may hold what it had, until a descriptor of it says that all ended.
fn start_time(pid: u32) -> Option<u64> {
    Some(stat(pid)?.start)
}

/// `PF_EXITING` of the kernel's `sched.h`: a process that has begun to end.
const EXITING: u32 = 0x4;

/// What `/proc/PID/stat` says.
struct Stat {
    state: String,
    flags: u32,
    start: u64,
}

/// Fields 3, 9 and 22, counted after the command's parenthesis.
fn stat(pid: u32) -> Option<Stat> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some(Stat {
        state: fields.next()?.to_owned(),
        flags: fields.nth(5)?.parse().ok()?,
        start: fields.nth(12)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> std::process::Child {
        let mut sleep = std::process::Command::new("sleep");
        sleep.arg("1000").spawn().unwrap()
    }

    #[test]
    fn a_process_that_runs_is_ended() {
        let mut child = sleeper();
        let process = ProcessId::of(child.id());
        process.end(Duration::from_secs(20)).unwrap();
        assert!(!child.wait().unwrap().success());
        process.end(Duration::from_secs(20)).unwrap();
    }

    #[test]
    fn a_process_that_is_to_be_reaped_is_dying_and_one_that_runs_is_not() {
        let mut child = sleeper();
        let process = ProcessId::of(child.id());
        assert!(!process.is_dying());
        child.kill().unwrap();
        process.wait(Duration::from_secs(20)).unwrap();
        assert!(process.is_dying());
        child.wait().unwrap();
        assert!(!process.is_dying());
    }

    #[test]
    fn another_process_of_the_same_id_is_left_alone() {
        let mut child = sleeper();
        let now = ProcessId::of(child.id());
        let earlier = ProcessId {
            start_time: now.start_time.map(|ticks| ticks - 1),
            ..now.clone()
        };
        let before_a_reboot = ProcessId {
            boot_id: Some("another".into()),
            ..now
        };
        for other in [earlier, before_a_reboot] {
            other.end(Duration::from_secs(20)).unwrap();
            assert!(child.try_wait().unwrap().is_none());
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
