//! Reading a control group's counters, in the form of cgroup v1 that the
//! agent's messages have. What the kernel does not count is zero.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use kata_protocol::agent::{
    BlkioStats, BlkioStatsEntry, CgroupStats, CpuStats, CpuUsage, HugetlbStats, MemoryData,
    MemoryStats, PidsStats, Pressure, PressureStats, ThrottlingData,
};

/// All of a group's counters.
pub(super) fn read(group: &Path) -> CgroupStats {
    CgroupStats {
        cpu_stats: Some(cpu(group)),
        memory_stats: Some(memory(group)),
        pids_stats: Some(PidsStats {
            current: number(group, "pids.current"),
            limit: number(group, "pids.max"),
        }),
        blkio_stats: Some(BlkioStats {
            pressure: pressure(&text(group, "io.pressure")),
            ..io(&text(group, "io.stat"))
        }),
        hugetlb_stats: huge_pages(group),
    }
}

/// A file of lines `key value`.
fn key_values(group: &Path, file: &str) -> BTreeMap<String, u64> {
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.parse().ok()?))
    };
    text(group, file).lines().filter_map(pair).collect()
}

/// The value of one key in such a file's text.
pub(super) fn value(text: &[u8], key: &str) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.lines().find_map(|line| {
        let value = line.strip_prefix(key)?.strip_prefix(' ')?;
        value.parse().ok()
    })
}

fn text(group: &Path, file: &str) -> String {
    fs::read_to_string(group.join(file)).unwrap_or_default()
}

/// A file of one number; no limit is the largest.
fn number(group: &Path, file: &str) -> u64 {
    match text(group, file).trim() {
        "max" => u64::MAX,
        value => value.parse().unwrap_or(0),
    }
}

fn cpu(group: &Path) -> CpuStats {
    let stat = key_values(group, "cpu.stat");
    let count = |key| stat.get(key).copied().unwrap_or(0);
    let nanoseconds = |key| count(key).saturating_mul(1000);
    CpuStats {
        cpu_usage: Some(CpuUsage {
            total_usage: nanoseconds("usage_usec"),
            percpu_usage: Vec::new(),
            usage_in_kernelmode: nanoseconds("system_usec"),
            usage_in_usermode: nanoseconds("user_usec"),
        }),
        throttling_data: Some(ThrottlingData {
            periods: count("nr_periods"),
            throttled_periods: count("nr_throttled"),
            throttled_time: nanoseconds("throttled_usec"),
        }),
        pressure: pressure(&text(group, "cpu.pressure")),
    }
}

fn memory(group: &Path) -> MemoryStats {
    let stats = key_values(group, "memory.stat");
    let events = key_values(group, "memory.events");
    let data = |kind: &str, failures| MemoryData {
        usage: number(group, &format!("{kind}.current")),
        max_usage: number(group, &format!("{kind}.peak")),
        failcnt: failures,
        limit: number(group, &format!("{kind}.max")),
    };
    let swap_events = key_values(group, "memory.swap.events");
    MemoryStats {
        cache: stats.get("file").copied().unwrap_or(0),
        usage: Some(data("memory", events.get("max").copied().unwrap_or(0))),
        swap_usage: Some(data(
            "memory.swap",
            swap_events.get("max").copied().unwrap_or(0),
        )),
        kernel_usage: Some(MemoryData {
            usage: stats.get("kernel").copied().unwrap_or(0),
            ..MemoryData::default()
        }),
        use_hierarchy: true,
        stats,
        pressure: pressure(&text(group, "memory.pressure")),
    }
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`;
/// `None` for a kernel that does not tell.
fn pressure(text: &str) -> Option<PressureStats> {
    let line = |kind: &str| {
        let fields = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let field = |name: &str| {
            let mut pairs = fields.split_whitespace().filter_map(|f| f.split_once('='));
            pairs.find_map(|(key, value)| (key == name).then_some(value))
        };
        let average = |name| field(name)?.parse().ok();
        Some(Pressure {
            avg10: average("avg10")?,
            avg60: average("avg60")?,
            avg300: average("avg300")?,
            total: field("total")?.parse().ok()?,
        })
    };
    let (some, full) = (line("some "), line("full "));
    (some.is_some() || full.is_some()).then_some(PressureStats { some, full })
}

/// `major:minor rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`
fn io(text: &str) -> BlkioStats {
    let mut stats = BlkioStats::default();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let device = fields.next().and_then(|device| device.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(a, b)| (a.parse(), b.parse())) else {
            continue;
        };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let (list, op) = match key {
                "rbytes" => (&mut stats.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut stats.io_service_bytes_recursive, "Write"),
                "dbytes" => (&mut stats.io_service_bytes_recursive, "Discard"),
                "rios" => (&mut stats.io_serviced_recursive, "Read"),
                "wios" => (&mut stats.io_serviced_recursive, "Write"),
                "dios" => (&mut stats.io_serviced_recursive, "Discard"),
                _ => continue,
            };
            let value = value.parse().unwrap_or(0);
            list.push(BlkioStatsEntry {
                major,
                minor,
                op: op.into(),
                value,
            });
        }
    }
    stats
}

fn huge_pages(group: &Path) -> BTreeMap<String, HugetlbStats> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let size = |name: String| {
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(".current")?;
        (!size.contains('.')).then(|| size.to_owned())
    };
    let stats = |size: String| {
        let events = key_values(group, &format!("hugetlb.{size}.events"));
        let stats = HugetlbStats {
            usage: number(group, &format!("hugetlb.{size}.current")),
            max_usage: 0, // not counted in cgroup v2
            failcnt: events.get("max").copied().unwrap_or(0),
        };
        (size, stats)
    };
    names.filter_map(size).map(stats).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_is_found_by_its_whole_name() {
        let text = b"oom 1\noom_kill 3\noom_group_kill 4\n";
        assert_eq!(value(text, "oom_kill"), Some(3));
        assert_eq!(value(text, "oom_k"), None);
        assert_eq!(value(b"", "oom_kill"), None);
    }

    #[test]
    fn files_become_counters() {
        let group = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(group.path().join(file), text).unwrap();
        write(
            "cpu.stat",
            "usage_usec 12\nuser_usec 8\nsystem_usec 4\nnr_throttled 3\n",
        );
        write(
            "cpu.pressure",
            "some avg10=1.50 avg60=0.10 avg300=0.00 total=77\n",
        );
        write("memory.current", "4096\n");
        write("memory.max", "max\n");
        write("memory.stat", "anon 1\nfile 2048\n");
        write("pids.current", "2\n");
        write(
            "io.stat",
            "254:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n",
        );
        write("hugetlb.2MB.current", "2097152\n");
        write("hugetlb.2MB.rsvd.current", "0\n");
        let stats = read(group.path());
        let cpu = stats.cpu_stats.unwrap();
        assert_eq!(cpu.cpu_usage.as_ref().unwrap().total_usage, 12_000);
        assert_eq!(cpu.throttling_data.as_ref().unwrap().throttled_periods, 3);
        let pressure = cpu.pressure.unwrap();
        let some = pressure.some.unwrap();
        assert_eq!((some.avg10, some.total, pressure.full), (1.5, 77, None));
        let memory = stats.memory_stats.unwrap();
        assert_eq!(memory.pressure, None);
        assert_eq!(memory.cache, 2048);
        let usage = memory.usage.unwrap();
        assert_eq!((usage.usage, usage.limit), (4096, u64::MAX));
        assert_eq!(stats.pids_stats.unwrap().current, 2);
        let io = stats.blkio_stats.unwrap();
        assert_eq!(io.io_service_bytes_recursive[1].value, 20);
        assert_eq!(io.io_serviced_recursive[1].op, "Write");
        assert_eq!(stats.hugetlb_stats.keys().collect::<Vec<_>>(), ["2MB"]);
    }

    proptest::proptest! {
        #[test]
        fn no_counters_make_it_panic(text in "[a-z0-9:=. \n]{0,80}") {
            let _ = (pressure(&text), io(&text), value(text.as_bytes(), "a"));
        }
    }
}
