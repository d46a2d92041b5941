//! What processes a container has.

use std::time::{Duration, SystemTime};

use kata_hypervisor::MemorySize;
use kata_protocol::agent::ProcessEntry;
use serde::{Deserialize, Serialize};

/// A process of a container, as the guest's kernel describes it: what ps(1)
/// shows. Process ids are the guest's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProcessInfo {
    /// Its id in the guest, as in [`ContainerStatus::pid`](crate::ContainerStatus).
    pub pid: u32,
    /// The id of its parent, which may be outside the container.
    pub ppid: u32,
    /// Its id as the container itself sees it.
    pub container_pid: u32,
    /// Its effective user id.
    pub uid: u32,
    /// When it started, by the guest's clock.
    pub started: SystemTime,
    /// Processor time so far, in user mode and in the kernel.
    pub cpu: Duration,
    /// Its terminal below `/dev`, such as `pts/0`.
    pub tty: Option<String>,
    /// Its command line, which it may have changed; cut when it is long, and
    /// empty once it has ended and nobody has collected its status.
    pub args: Vec<String>,
    /// The name the kernel has for it: at most 15 bytes.
    pub name: String,
    /// Its state by the letters of proc_pid_stat(5), such as `R`, `S` or `Z`.
    pub state: char,
    /// Memory that it has in use now, shared parts included.
    pub resident: MemorySize,
    /// Its threads.
    pub threads: u32,
}

impl ProcessInfo {
    /// From the guest's answer: its word, not checked.
    pub(crate) fn new(entry: ProcessEntry) -> Self {
        let started = Duration::from_millis(entry.start_time_ms);
        Self {
            pid: entry.pid,
            ppid: entry.ppid,
            container_pid: entry.container_pid,
            uid: entry.uid,
            started: SystemTime::UNIX_EPOCH
                .checked_add(started)
                .unwrap_or(SystemTime::UNIX_EPOCH),
            cpu: Duration::from_millis(entry.cpu_time_ms),
            tty: Some(entry.tty).filter(|tty| !tty.is_empty()),
            args: entry.args,
            name: entry.name,
            state: entry.state.chars().next().unwrap_or('?'),
            resident: MemorySize::bytes(entry.rss),
            threads: entry.threads,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_an_absent_terminal_are_what_they_mean() {
        let info = ProcessInfo::new(ProcessEntry {
            start_time_ms: 5000,
            cpu_time_ms: 20,
            state: "S".into(),
            ..ProcessEntry::default()
        });
        assert_eq!(
            info.started,
            SystemTime::UNIX_EPOCH + Duration::from_secs(5)
        );
        assert_eq!(
            (info.cpu, info.tty, info.state),
            (Duration::from_millis(20), None, 'S')
        );
    }

    #[test]
    fn nonsense_from_the_guest_does_no_harm() {
        let info = ProcessInfo::new(ProcessEntry {
            start_time_ms: u64::MAX,
            cpu_time_ms: u64::MAX,
            rss: u64::MAX,
            ..ProcessEntry::default()
        });
        assert_eq!(info.state, '?');
    }
}
