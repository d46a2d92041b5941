//! The single counters of a container's control group.

use std::collections::BTreeMap;
use std::time::Duration;

use kata_hypervisor::MemorySize;
use kata_protocol::agent as wire;
use serde::{Deserialize, Serialize};

/// Use of a kind of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemoryUse {
    /// In use.
    pub usage: MemorySize,
    /// The most that was in use at once; zero where the kernel does not count.
    pub peak: MemorySize,
    /// The most that may be in use; `None` when it is not limited.
    pub limit: Option<MemorySize>,
    /// How often the limit was met.
    pub failures: u64,
}

impl MemoryUse {
    pub(super) fn new(data: Option<&wire::MemoryData>) -> Self {
        let data = data.cloned().unwrap_or_default();
        Self {
            usage: MemorySize::bytes(data.usage),
            peak: MemorySize::bytes(data.max_usage),
            limit: limit(data.limit),
            failures: data.failcnt,
        }
    }
}

/// No limit is 0, or the largest number a kernel of either cgroup version says.
pub(super) fn limit(bytes: u64) -> Option<MemorySize> {
    (bytes != 0 && bytes < (1 << 62)).then(|| MemorySize::bytes(bytes))
}

/// What was done with a block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BlockStats {
    /// Its major number in the guest.
    pub major: u64,
    /// Its minor number in the guest.
    pub minor: u64,
    /// Reads.
    pub read: Transfers,
    /// Writes.
    pub written: Transfers,
    /// Discards.
    pub discarded: Transfers,
}

/// How much was moved, in how many requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Transfers {
    /// Bytes.
    pub bytes: u64,
    /// Requests.
    pub requests: u64,
}

/// By device, in the order of their numbers.
pub(super) fn block(stats: &wire::BlkioStats) -> Vec<BlockStats> {
    type Field = fn(&mut Transfers) -> &mut u64;
    let mut all = BTreeMap::<(u64, u64), BlockStats>::new();
    let bytes: Field = |transfers| &mut transfers.bytes;
    let requests: Field = |transfers| &mut transfers.requests;
    for (entries, field) in [
        (&stats.io_service_bytes_recursive, bytes),
        (&stats.io_serviced_recursive, requests),
    ] {
        for entry in entries {
            let numbers = (entry.major, entry.minor);
            let device = all.entry(numbers).or_insert(BlockStats {
                major: entry.major,
                minor: entry.minor,
                ..BlockStats::default()
            });
            let transfers = match entry.op.to_ascii_lowercase().as_str() {
                "read" => &mut device.read,
                "write" => &mut device.written,
                "discard" => &mut device.discarded,
                // cgroup v1 has sums and modes besides.
                _ => continue,
            };
            *field(transfers) = entry.value;
        }
    }
    all.into_values().collect()
}

/// How long processes waited for a resource: the kernel's pressure stall
/// information.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Pressure {
    /// At least one waited.
    pub some: Stall,
    /// All waited at once; `None` where that cannot be.
    pub full: Option<Stall>,
}

/// A part of the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stall {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last 60 seconds.
    pub avg60: f64,
    /// Percent of the last 300 seconds.
    pub avg300: f64,
    /// So far.
    pub total: Duration,
}

pub(super) fn pressure(stats: Option<&wire::PressureStats>) -> Option<Pressure> {
    let stall = |line: &wire::Pressure| Stall {
        avg10: line.avg10,
        avg60: line.avg60,
        avg300: line.avg300,
        total: Duration::from_micros(line.total),
    };
    let stats = stats?;
    Some(Pressure {
        some: stats.some.as_ref().map(stall).unwrap_or_default(),
        full: stats.full.as_ref().map(stall),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_a_device_become_one() {
        let entry = |op: &str, value| wire::BlkioStatsEntry {
            major: 254,
            minor: 1,
            op: op.into(),
            value,
        };
        let stats = wire::BlkioStats {
            io_service_bytes_recursive: vec![
                entry("Read", 10),
                entry("write", 20),
                entry("Total", 30),
            ],
            io_serviced_recursive: vec![entry("Read", 1), entry("Write", 2)],
            ..wire::BlkioStats::default()
        };
        let [device] = block(&stats)[..] else {
            panic!("one device");
        };
        assert_eq!((device.major, device.minor), (254, 1));
        assert_eq!((device.read.bytes, device.read.requests), (10, 1));
        assert_eq!((device.written.bytes, device.written.requests), (20, 2));
        assert_eq!(device.discarded, Transfers::default());
    }

    #[test]
    fn no_limit_is_none() {
        assert_eq!([0, u64::MAX, 1 << 62].map(limit), [None; 3]);
        assert_eq!(limit(1), Some(MemorySize::bytes(1)));
    }

    #[test]
    fn pressure_that_cannot_be_is_left_out() {
        let line = wire::Pressure {
            avg10: 1.5,
            total: 7,
            ..wire::Pressure::default()
        };
        let stats = wire::PressureStats {
            some: Some(line),
            full: None,
        };
        let pressure = pressure(Some(&stats)).unwrap();
        assert_eq!(pressure.some.total, Duration::from_micros(7));
        assert_eq!(pressure.full, None);
    }
}
