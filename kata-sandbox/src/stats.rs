//! What sandboxes and containers use.

use std::time::{Duration, SystemTime};

use kata_hypervisor::{MemorySize, VmUsage};
use kata_protocol::agent::StatsContainerResponse;

/// What a sandbox uses.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SandboxStats {
    /// What its machine costs the host.
    pub vm: VmUsage,
    /// The guest's memory as its own kernel sees it; `None` where the agent
    /// does not say.
    pub guest: Option<GuestMemory>,
    /// What each container uses, by id.
    pub containers: Vec<(String, ContainerStats)>,
}

/// The guest's memory as its own kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GuestMemory {
    /// All that its kernel manages.
    pub total: MemorySize,
    /// What programs could still have.
    pub available: MemorySize,
}

impl GuestMemory {
    /// From the agent's metrics, in Prometheus' text form.
    pub(crate) fn parse(metrics: &str) -> Option<Self> {
        let item = |name: &str| {
            let prefix = format!("kata_guest_meminfo{{item=\"{name}\"}} ");
            let value = metrics
                .lines()
                .find_map(|line| line.strip_prefix(&prefix))?;
            value.trim().parse().ok().map(MemorySize::bytes)
        };
        let total = item("memtotal").or_else(|| item("mem_total"))?;
        let available = item("memavailable").or_else(|| item("mem_available"))?;
        Some(Self { total, available })
    }
}

/// What a container uses.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ContainerStats {
    /// When this was taken.
    pub taken: SystemTime,
    /// Processor time of all its processes so far.
    pub cpu: Duration,
    /// The part of it that was spent in the kernel.
    pub cpu_kernel: Duration,
    /// How long it was held back by its processor limit.
    pub cpu_throttled: Duration,
    /// Memory in use, file cache included.
    pub memory: MemorySize,
    /// Memory in use but for file cache that could go at once.
    pub memory_working_set: MemorySize,
    /// The most memory it may use; `None` when it is not limited.
    pub memory_limit: Option<MemorySize>,
    /// Processes and threads.
    pub pids: u64,
    /// What went through the interfaces of its network namespace.
    pub interfaces: Vec<InterfaceStats>,
}

/// What went through an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InterfaceStats {
    /// Its name in the guest.
    pub name: String,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
}

impl ContainerStats {
    /// From the guest's answer: its word, not checked.
    pub(crate) fn new(answer: &StatsContainerResponse) -> Self {
        let cgroup = answer.cgroup_stats.clone().unwrap_or_default();
        let cpu = cgroup.cpu_stats.unwrap_or_default();
        let usage = cpu.cpu_usage.unwrap_or_default();
        let memory = cgroup.memory_stats.unwrap_or_default();
        let in_use = memory.usage.unwrap_or_default();
        let inactive = memory
            .stats
            .get("inactive_file")
            .copied()
            .unwrap_or_default();
        let nanos = Duration::from_nanos;
        Self {
            taken: SystemTime::now(),
            cpu: nanos(usage.total_usage),
            cpu_kernel: nanos(usage.usage_in_kernelmode),
            cpu_throttled: nanos(cpu.throttling_data.unwrap_or_default().throttled_time),
            memory: MemorySize::bytes(in_use.usage),
            memory_working_set: MemorySize::bytes(in_use.usage.saturating_sub(inactive)),
            memory_limit: is_limit(in_use.limit).then(|| MemorySize::bytes(in_use.limit)),
            pids: cgroup.pids_stats.unwrap_or_default().current,
            interfaces: answer
                .network_stats
                .iter()
                .map(|stats| InterfaceStats {
                    name: stats.name.clone(),
                    received: stats.rx_bytes,
                    sent: stats.tx_bytes,
                })
                .collect(),
        }
    }
}

/// No limit is 0, or the largest number a kernel of either cgroup version says.
fn is_limit(bytes: u64) -> bool {
    bytes != 0 && bytes < (1 << 62)
}

#[cfg(test)]
mod tests {
    use kata_protocol::agent::{CgroupStats, MemoryData, MemoryStats, PidsStats};

    use super::*;

    #[test]
    fn the_working_set_is_what_is_in_use_but_for_idle_cache() {
        let usage = MemoryData {
            usage: 100,
            limit: u64::MAX,
            ..MemoryData::default()
        };
        let stats = [("inactive_file".to_owned(), 30)].into();
        let memory_stats = Some(MemoryStats {
            usage: Some(usage),
            stats,
            ..MemoryStats::default()
        });
        let pids_stats = Some(PidsStats {
            current: 4,
            limit: 0,
        });
        let cgroup_stats = Some(CgroupStats {
            memory_stats,
            pids_stats,
            ..CgroupStats::default()
        });
        let answer = StatsContainerResponse {
            cgroup_stats,
            ..StatsContainerResponse::default()
        };
        let stats = ContainerStats::new(&answer);
        assert_eq!(stats.memory, MemorySize::bytes(100));
        assert_eq!(stats.memory_working_set, MemorySize::bytes(70));
        assert_eq!((stats.memory_limit, stats.pids), (None, 4));
    }

    #[test]
    fn an_empty_answer_is_all_zeroes() {
        let stats = ContainerStats::new(&StatsContainerResponse::default());
        assert_eq!((stats.cpu, stats.pids), (Duration::ZERO, 0));
    }

    #[test]
    fn the_guests_memory_is_found_among_its_metrics() {
        let metrics = "# HELP x\nkata_guest_meminfo{item=\"memtotal\"} 1048576\n\
                       kata_guest_meminfo{item=\"memavailable\"} 524288\nother 1\n";
        let memory = GuestMemory::parse(metrics).unwrap();
        assert_eq!(
            (memory.total, memory.available.as_bytes()),
            (MemorySize::mib(1), 524_288)
        );
        assert_eq!(GuestMemory::parse("nothing here"), None);
    }
}
