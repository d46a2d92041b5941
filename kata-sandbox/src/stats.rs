//! What sandboxes and containers use.

mod counters;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use kata_hypervisor::{MemorySize, VmUsage};
use kata_protocol::agent::{HugetlbStats, MemoryData, NetworkStats, StatsContainerResponse};

pub use counters::{BlockStats, MemoryUse, Pressure, Stall, Transfers};

/// What a sandbox uses.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SandboxStats {
    /// What its machine costs the host.
    pub vm: VmUsage,
    /// The guest's memory as its own kernel sees it; `None` where the agent
    /// does not say.
    pub guest: Option<GuestMemory>,
    /// What each container uses, by id.
    pub containers: Vec<(String, ContainerStats)>,
    /// What went through each of its interfaces.
    #[serde(default)]
    pub interfaces: Vec<SandboxInterfaceStats>,
}

/// What went through an interface of a sandbox, from both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SandboxInterfaceStats {
    /// Its name in the guest.
    pub name: String,
    /// As the guest counts; `None` where the agent does not say.
    pub guest: Option<InterfaceStats>,
    /// As the host counts; `None` where the network does not.
    pub host: Option<kata_network::Counters>,
}

/// The guest's memory as its own kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GuestMemory {
    /// All that its kernel manages.
    pub total: MemorySize,
    /// What programs could still have.
    pub available: MemorySize,
    /// What the agent itself has in it, shared pages included; `None` where it
    /// does not say.
    #[serde(default)]
    pub agent: Option<MemorySize>,
}

impl GuestMemory {
    /// From the agent's metrics, in Prometheus' text form.
    pub(crate) fn parse(metrics: &str) -> Option<Self> {
        let bytes = |prefix: &str| {
            let value = metrics.lines().find_map(|line| line.strip_prefix(prefix))?;
            value.trim().parse().ok().map(MemorySize::bytes)
        };
        let item = |name: &str| bytes(&format!("kata_guest_meminfo{{item=\"{name}\"}} "));
        let total = item("memtotal").or_else(|| item("mem_total"))?;
        let available = item("memavailable").or_else(|| item("mem_available"))?;
        Some(Self {
            total,
            available,
            agent: bytes("kata_agent_total_rss "),
        })
    }
}

/// What a container uses.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ContainerStats {
    /// When this was taken.
    pub taken: SystemTime,
    /// Processor time of all its processes so far.
    pub cpu: Duration,
    /// The part of it that was spent in the kernel.
    pub cpu_kernel: Duration,
    /// The part of it that was spent in programs.
    pub cpu_user: Duration,
    /// Periods of its processor limit in which it wanted to run.
    pub cpu_periods: u64,
    /// How many of them it was held back in.
    pub cpu_throttled_periods: u64,
    /// How long it was held back by its processor limit.
    pub cpu_throttled: Duration,
    /// Memory in use, file cache included.
    pub memory: MemorySize,
    /// Memory in use but for file cache that could go at once.
    pub memory_working_set: MemorySize,
    /// The most memory it may use; `None` when it is not limited.
    pub memory_limit: Option<MemorySize>,
    /// Memory in use, its peak, its limit and how often that was met.
    pub memory_use: MemoryUse,
    /// The same of swap.
    pub swap: MemoryUse,
    /// The kernel's own memory for it.
    pub kernel_memory: MemorySize,
    /// All that the kernel counts of its memory, by the names of cgroup v2's
    /// `memory.stat`.
    pub memory_stat: BTreeMap<String, u64>,
    /// Processes and threads.
    pub pids: u64,
    /// The most it may have; `None` when they are not limited.
    pub pids_limit: Option<u64>,
    /// What it did with block devices.
    pub block: Vec<BlockStats>,
    /// Huge pages in use, by their size as the kernel writes it, such as `2MB`.
    pub huge_pages: BTreeMap<String, MemoryUse>,
    /// Waiting for processors; `None` where the guest's kernel does not count.
    pub cpu_pressure: Option<Pressure>,
    /// Waiting for memory.
    pub memory_pressure: Option<Pressure>,
    /// Waiting for block devices.
    pub io_pressure: Option<Pressure>,
    /// What went through the interfaces of its network namespace.
    pub interfaces: Vec<InterfaceStats>,
}

/// What went through an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InterfaceStats {
    /// Its name in the guest.
    pub name: String,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Packets received.
    pub received_packets: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets that were received damaged.
    pub receive_errors: u64,
    /// Packets that could not be sent.
    pub send_errors: u64,
    /// Received packets that were thrown away.
    pub receive_dropped: u64,
    /// Packets that were thrown away instead of being sent.
    pub send_dropped: u64,
}

impl ContainerStats {
    /// From the guest's answer: its word, not checked.
    pub(crate) fn new(answer: &StatsContainerResponse) -> Self {
        let cgroup = answer.cgroup_stats.clone().unwrap_or_default();
        let cpu = cgroup.cpu_stats.unwrap_or_default();
        let usage = cpu.cpu_usage.unwrap_or_default();
        let throttling = cpu.throttling_data.unwrap_or_default();
        let memory = cgroup.memory_stats.unwrap_or_default();
        let memory_use = MemoryUse::new(memory.usage.as_ref());
        let inactive = memory
            .stats
            .get("inactive_file")
            .copied()
            .unwrap_or_default();
        let pids = cgroup.pids_stats.unwrap_or_default();
        let block = cgroup.blkio_stats.unwrap_or_default();
        let nanos = Duration::from_nanos;
        Self {
            taken: SystemTime::now(),
            cpu: nanos(usage.total_usage),
            cpu_kernel: nanos(usage.usage_in_kernelmode),
            cpu_user: nanos(usage.usage_in_usermode),
            cpu_periods: throttling.periods,
            cpu_throttled_periods: throttling.throttled_periods,
            cpu_throttled: nanos(throttling.throttled_time),
            memory: memory_use.usage,
            memory_working_set: MemorySize::bytes(
                memory_use.usage.as_bytes().saturating_sub(inactive),
            ),
            memory_limit: memory_use.limit,
            memory_use,
            swap: MemoryUse::new(memory.swap_usage.as_ref()),
            kernel_memory: MemoryUse::new(memory.kernel_usage.as_ref()).usage,
            memory_stat: memory.stats,
            pids: pids.current,
            pids_limit: (pids.limit != 0 && pids.limit != u64::MAX).then_some(pids.limit),
            block: counters::block(&block),
            huge_pages: huge_pages(cgroup.hugetlb_stats),
            cpu_pressure: counters::pressure(cpu.pressure.as_ref()),
            memory_pressure: counters::pressure(memory.pressure.as_ref()),
            io_pressure: counters::pressure(block.pressure.as_ref()),
            interfaces: answer.network_stats.iter().map(interface).collect(),
        }
    }
}

/// What the guest's kernel says of its interfaces, from the agent's metrics.
pub(crate) fn guest_interface(metrics: &str, name: &str) -> Option<InterfaceStats> {
    let item = |item: &str| {
        let prefix = format!("kata_guest_netdev_stat{{interface=\"{name}\",item=\"{item}\"}} ");
        let mut lines = metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix(&prefix))?;
        value.trim().parse().ok()
    };
    Some(InterfaceStats {
        name: name.to_owned(),
        received: item("recv_bytes")?,
        sent: item("sent_bytes")?,
        received_packets: item("recv_packets")?,
        sent_packets: item("sent_packets")?,
        receive_errors: item("recv_errs")?,
        send_errors: item("sent_errs")?,
        receive_dropped: item("recv_drop")?,
        send_dropped: item("sent_drop")?,
    })
}

fn huge_pages(stats: BTreeMap<String, HugetlbStats>) -> BTreeMap<String, MemoryUse> {
    let convert = |(size, stats): (String, HugetlbStats)| {
        let data = MemoryData {
            usage: stats.usage,
            max_usage: stats.max_usage,
            failcnt: stats.failcnt,
            limit: 0,
        };
        (size, MemoryUse::new(Some(&data)))
    };
    stats.into_iter().map(convert).collect()
}

fn interface(stats: &NetworkStats) -> InterfaceStats {
    InterfaceStats {
        name: stats.name.clone(),
        received: stats.rx_bytes,
        sent: stats.tx_bytes,
        received_packets: stats.rx_packets,
        sent_packets: stats.tx_packets,
        receive_errors: stats.rx_errors,
        send_errors: stats.tx_errors,
        receive_dropped: stats.rx_dropped,
        send_dropped: stats.tx_dropped,
    }
}

#[cfg(test)]
mod tests {
    use kata_protocol::agent::{CgroupStats, MemoryStats, PidsStats};

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
    fn an_interface_is_found_among_the_guests_metrics() {
        let items = [
            "recv_bytes",
            "recv_packets",
            "recv_errs",
            "recv_drop",
            "sent_bytes",
            "sent_packets",
            "sent_errs",
            "sent_drop",
        ];
        let line = |(index, item): (usize, &&str)| {
            format!("kata_guest_netdev_stat{{interface=\"eth0\",item=\"{item}\"}} {index}\n")
        };
        let metrics: String = items.iter().enumerate().map(line).collect();
        let eth0 = guest_interface(&metrics, "eth0").unwrap();
        assert_eq!(
            (eth0.received_packets, eth0.sent, eth0.send_dropped),
            (1, 4, 7)
        );
        assert_eq!(guest_interface(&metrics, "eth1"), None);
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
        let mut memory = GuestMemory::parse(metrics).unwrap();
        assert_eq!(
            (memory.total, memory.available.as_bytes()),
            (MemorySize::mib(1), 524_288)
        );
        assert_eq!(memory.agent, None);
        let metrics = format!("{metrics}kata_agent_total_rss 4096\n");
        memory = GuestMemory::parse(&metrics).unwrap();
        assert_eq!(memory.agent.map(MemorySize::as_bytes), Some(4096));
        assert_eq!(GuestMemory::parse("nothing here"), None);
    }
}
