//! Limits of a sandbox's processes on the host.
//!
//! Containers are limited in the guest. On the host, the machine as a whole is:
//! its processors' share and time, the processors and memory nodes it may use,
//! and the memory of guest and monitor together, so that the monitor's own part
//! is never taken from the containers.

use std::path::Path;

use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};

use super::hierarchy::Version;
use super::{CgroupError, Group, Result};

/// Limits of a sandbox's processes on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostLimits {
    shares: Option<u64>,
    /// Microseconds in each period; negative for none.
    quota: Option<i64>,
    period: Option<u64>,
    cpus: Option<String>,
    mems: Option<String>,
    /// Whether memory is limited, too.
    limits_memory: bool,
    /// Bytes, of guest and monitor together.
    memory: Option<u64>,
}

impl HostLimits {
    /// What a specification's resources mean for the machine's processes.
    pub(crate) fn of(resources: &oci::LinuxResources) -> Self {
        let cpu = resources.cpu().as_ref();
        Self {
            shares: cpu.and_then(oci::LinuxCpu::shares).filter(|it| *it > 0),
            quota: cpu.and_then(oci::LinuxCpu::quota).filter(|it| *it != 0),
            period: cpu.and_then(oci::LinuxCpu::period).filter(|it| *it > 0),
            cpus: cpu
                .and_then(|cpu| cpu.cpus().clone())
                .filter(|it| !it.is_empty()),
            mems: cpu
                .and_then(|cpu| cpu.mems().clone())
                .filter(|it| !it.is_empty()),
            limits_memory: resources
                .memory()
                .as_ref()
                .and_then(oci::LinuxMemory::limit)
                .is_some_and(|limit| limit > 0),
            memory: None,
        }
    }

    /// Limits the memory, if any is limited, to this much: of guest and monitor
    /// together.
    pub(crate) fn memory(mut self, bytes: u64) -> Self {
        self.memory = self.limits_memory.then_some(bytes);
        self
    }

    /// The files to be written in a group, and what into them.
    fn files(&self, version: &Version) -> Vec<(&'static str, String)> {
        let mut files = Vec::new();
        let mut set = |file, value: Option<String>| {
            files.extend(value.map(|value| (file, value)));
        };
        let has = |controller: &str| match version {
            Version::Unified => true,
            Version::Controllers(names) => names.iter().any(|name| name == controller),
        };
        let text = |number: &u64| number.to_string();
        if *version == Version::Unified {
            set("cpu.weight", self.shares.map(|it| weight(it).to_string()));
            set("cpu.max", self.maximum());
            set("memory.max", self.memory.as_ref().map(text));
        } else {
            if has("cpu") {
                set("cpu.shares", self.shares.as_ref().map(text));
                set("cpu.cfs_period_us", self.period.as_ref().map(text));
                set("cpu.cfs_quota_us", self.quota.map(|it| it.to_string()));
            }
            if has("memory") {
                set("memory.limit_in_bytes", self.memory.as_ref().map(text));
            }
        }
        if has("cpuset") {
            set("cpuset.cpus", self.cpus.clone());
            set("cpuset.mems", self.mems.clone());
        }
        files
    }

    /// `cpu.max`: the quota and its period.
    fn maximum(&self) -> Option<String> {
        if self.quota.is_none() && self.period.is_none() {
            return None;
        }
        let quota = self.quota.filter(|quota| *quota > 0);
        let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        let period = self.period.map(|period| format!(" {period}"));
        Some(quota + &period.unwrap_or_default())
    }

    /// Limits a group as far as its hierarchy has the controllers; a hybrid
    /// host's unified one has none of those that version 1 has.
    pub(super) fn apply(&self, group: &Group) -> Result<()> {
        for (file, value) in self.files(&group.hierarchy.version) {
            let path = group.directory.join(file);
            if group.hierarchy.version == Version::Unified && !path.exists() {
                log::debug!(path:% = path.display(); "the controller is not here");
                continue;
            }
            write(&path, &value)?;
        }
        Ok(())
    }
}

fn write(path: &Path, value: &str) -> Result<()> {
    std::fs::write(path, value).map_err(CgroupError::io("write", path))
}

/// Shares of version 1 (2 to 262144) as a weight of version 2 (1 to 10000), as
/// the OCI runtimes have agreed to convert them.
fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> HostLimits {
        let resources = serde_json::json!({
            "cpu": {"shares": 1024, "quota": 50_000, "period": 100_000, "cpus": "0-1", "mems": ""},
            "memory": {"limit": 5},
        });
        HostLimits::of(&serde_json::from_value(resources).unwrap()).memory(300 << 20)
    }

    fn spelled(limits: &HostLimits, version: &Version) -> String {
        let files = limits.files(version).into_iter();
        let lines = files.map(|(file, value)| format!("{file}={value}"));
        lines.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_version_has_its_own_files() {
        assert_eq!(
            spelled(&limits(), &Version::Unified),
            "cpu.weight=39 cpu.max=50000 100000 memory.max=314572800 cpuset.cpus=0-1"
        );
        let of = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            spelled(&limits(), &Version::Controllers(names))
        };
        assert_eq!(
            of(&["cpu", "cpuacct"]),
            "cpu.shares=1024 cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000"
        );
        assert_eq!(of(&["memory"]), "memory.limit_in_bytes=314572800");
        assert_eq!(of(&["cpuset"]), "cpuset.cpus=0-1");
        assert_eq!(of(&["name=systemd"]), "");
    }

    #[test]
    fn what_is_not_limited_is_not_written() {
        assert_eq!(spelled(&HostLimits::default(), &Version::Unified), "");
        let unlimited = serde_json::json!({"cpu": {"quota": -1, "shares": 0}});
        let unlimited = HostLimits::of(&serde_json::from_value(unlimited).unwrap());
        assert_eq!(spelled(&unlimited, &Version::Unified), "cpu.max=max");
    }

    #[test]
    fn shares_become_weights_within_their_range() {
        assert_eq!([weight(0), weight(2), weight(1 << 30)], [1, 1, 10_000]);
    }
}
