//! What is known of a container, on disk and to those who ask.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::hooks::Later;

/// A container's status, in the words of the OCI runtime specification
/// ("State"), and `paused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Its machine or its environment is being made.
    Creating,
    /// Its program has not been started.
    Created,
    /// Its program runs.
    Running,
    /// Its processes stand still.
    Paused,
    /// Its program has ended.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// A container's `state.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) oci_version: String,
    pub(crate) id: String,
    /// The proxy, which stands for the container's first process on the host.
    pub(crate) process: Option<ProxyProcess>,
    /// What commands have brought it to; `stopped` follows from the process.
    pub(crate) status: Status,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) created: jiff::Timestamp,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    /// The sandbox that it runs in, by the library's id.
    pub(crate) sandbox: String,
    /// Its id in the sandbox.
    pub(crate) guest_id: String,
    /// Whether the sandbox was made for it, and ends with it.
    pub(crate) owns_sandbox: bool,
    /// The control group that its specification names.
    #[serde(default)]
    pub(crate) cgroup: Option<String>,
    /// Whether its program was started.
    #[serde(default)]
    pub(crate) started: bool,
    /// What is to be run when it has been started, and when it is gone.
    #[serde(default)]
    pub(crate) hooks: Later,
    /// Whether its network may be made between `create` and `start`.
    #[serde(default)]
    pub(crate) network_later: bool,
    pub(crate) uid: u32,
}

/// A process, and the moment it began, so that no other is taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProxyProcess {
    pub(crate) pid: u32,
    /// In clock ticks since boot, as `/proc/PID/stat` has it.
    pub(crate) start_time: u64,
}

impl ProxyProcess {
    /// The process of that id, if it is alive.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, start_time) = parse_stat(&stat)?;
        (!matches!(state, 'Z' | 'X' | 'x')).then_some(Self { pid, start_time })
    }

    /// Whether that very process is alive.
    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// The state and the start time in a line of `/proc/PID/stat`: fields 3 and 22.
/// The name before them may hold anything.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?.chars().next()?;
    let start_time = fields.nth(18)?.parse().ok()?;
    Some((state, start_time))
}

impl Record {
    /// The status now: what commands have brought it to, unless its process has
    /// ended since.
    pub(crate) fn status(&self) -> Status {
        match self.process {
            Some(process) if process.is_alive() => self.status,
            Some(_) => Status::Stopped,
            None if self.status == Status::Creating => Status::Creating,
            None => Status::Stopped,
        }
    }

    /// What `state` and `list` say of it.
    pub(crate) fn state(&self, owner: String) -> State<'_> {
        let status = self.status();
        let alive = status != Status::Stopped;
        State {
            oci_version: &self.oci_version,
            id: &self.id,
            pid: self
                .process
                .filter(|_| alive)
                .map_or(0, |process| process.pid),
            status,
            bundle: &self.bundle,
            rootfs: &self.rootfs,
            created: self.created,
            annotations: &self.annotations,
            owner,
        }
    }
}

/// A container's state, as the OCI runtime specification and runc print it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State<'a> {
    pub(crate) oci_version: &'a str,
    pub(crate) id: &'a str,
    pub(crate) pid: u32,
    pub(crate) status: Status,
    pub(crate) bundle: &'a PathBuf,
    pub(crate) rootfs: &'a PathBuf,
    pub(crate) created: jiff::Timestamp,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: &'a BTreeMap<String, String>,
    pub(crate) owner: String,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A container of this process.
    pub(crate) fn record() -> Record {
        Record {
            oci_version: "1.0.2".into(),
            id: "c1".into(),
            process: ProxyProcess::of(std::process::id()),
            status: Status::Created,
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: jiff::Timestamp::UNIX_EPOCH,
            annotations: BTreeMap::new(),
            sandbox: "c1".into(),
            guest_id: "c1".into(),
            owns_sandbox: true,
            cgroup: None,
            started: false,
            hooks: Later::default(),
            network_later: false,
            uid: 0,
        }
    }

    #[test]
    fn a_name_with_spaces_and_brackets_hides_no_field() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 5120 8 9";
        assert_eq!(parse_stat(stat), Some(('S', 5120)));
        assert_eq!(parse_stat("7 (a"), None);
    }

    #[test]
    fn a_container_is_stopped_when_its_process_is_another() {
        let mut record = record();
        assert_eq!(record.status(), Status::Created);
        record.process.as_mut().unwrap().start_time += 1;
        assert_eq!(record.status(), Status::Stopped);
        assert_eq!(record.state(String::new()).pid, 0);
    }

    #[test]
    fn state_is_printed_in_the_specifications_words_and_order() {
        let record = record();
        let json = serde_json::to_string(&record.state("root".into())).unwrap();
        let pid = std::process::id();
        assert_eq!(
            json,
            format!(
                "{{\"ociVersion\":\"1.0.2\",\"id\":\"c1\",\"pid\":{pid},\"status\":\"created\",\
                 \"bundle\":\"/b\",\"rootfs\":\"/b/rootfs\",\"created\":\"1970-01-01T00:00:00Z\",\
                 \"owner\":\"root\"}}"
            )
        );
    }
}
