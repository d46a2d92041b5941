//! GetMetrics: figures of the agent and of the guest in Prometheus' text form,
//! under the names that Kata gives them.

use std::cell::Cell;
use std::fs;

thread_local! {
    /// How often the figures were asked for; the agent has one thread.
    static SCRAPES: Cell<u64> = const { Cell::new(0) };
}

/// All figures. What the kernel does not tell is left out.
pub(crate) fn collect() -> String {
    SCRAPES.set(SCRAPES.get() + 1);
    let mut text = Text::default();
    text.head(
        "kata_agent_scrape_count",
        "counter",
        "How often these figures were asked for.",
    );
    text.value("kata_agent_scrape_count", "", SCRAPES.get());
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    agent_stat(&mut text, &read("/proc/self/stat"));
    pairs(
        &mut text,
        "kata_agent_proc_status",
        &read("/proc/self/status"),
    );
    pairs(&mut text, "kata_agent_io_stat", &read("/proc/self/io"));
    load(&mut text, &read("/proc/loadavg"));
    cpu(&mut text, &read("/proc/stat"));
    pairs(&mut text, "kata_guest_meminfo", &read("/proc/meminfo"));
    words(&mut text, "kata_guest_vm_stat", &read("/proc/vmstat"));
    network(&mut text, &read("/proc/net/dev"));
    disks(&mut text, &read("/proc/diskstats"));
    text.0
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.0 += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn value(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        if labels.is_empty() {
            self.0 += &format!("{name} {value}\n");
        } else {
            self.0 += &format!("{name}{{{labels}}} {value}\n");
        }
    }
}

/// A label whose value may hold anything.
fn label(name: &str, value: &str) -> String {
    let value = value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

/// `/proc/self/stat`: the fields after the name in parentheses.
fn agent_stat(text: &mut Text, stat: &str) {
    let Some((_, rest)) = stat.rsplit_once(") ") else {
        return;
    };
    let fields: Vec<u64> = rest
        .split_whitespace()
        .map(|field| field.parse().unwrap_or_default())
        .collect();
    let page = rustix::param::page_size() as u64;
    let tick = rustix::param::clock_ticks_per_second();
    // Fields are numbered from the state, which is the third of the file.
    let gauges = [
        ("kata_agent_threads", "Threads of the agent.", 17, 1),
        (
            "kata_agent_total_vm",
            "Bytes of the agent's address space.",
            20,
            1,
        ),
        (
            "kata_agent_total_rss",
            "Bytes of the agent in memory.",
            21,
            page,
        ),
    ];
    for (name, help, field, unit) in gauges {
        if let Some(value) = fields.get(field) {
            text.head(name, "gauge", help);
            text.value(name, "", value * unit);
        }
    }
    if let (Some(user), Some(system)) = (fields.get(11), fields.get(12)) {
        text.head(
            "kata_agent_total_time",
            "counter",
            "Seconds of the agent on a processor.",
        );
        let ticks = user + system;
        let millis = ticks * 1000 / tick.max(1);
        text.value(
            "kata_agent_total_time",
            "",
            format_args!("{}.{:03}", millis / 1000, millis % 1000),
        );
    }
}

/// Lines `name: number`, with a unit of 1024 bytes if they say `kB`.
fn pairs(text: &mut Text, name: &str, lines: &str) {
    text.head(
        name,
        "gauge",
        "Figures of the kernel's file of that name; sizes in bytes.",
    );
    for line in lines.lines() {
        let Some((item, value)) = line.split_once(':') else {
            continue;
        };
        let mut words = value.split_whitespace();
        let Some(number) = words.next().and_then(|word| word.parse::<u64>().ok()) else {
            continue;
        };
        let unit = match words.next() {
            Some("kB") => 1024,
            Some(_) => continue,
            None => 1,
        };
        text.value(
            name,
            &label("item", &item.to_lowercase()),
            number.saturating_mul(unit),
        );
    }
}

/// Lines `name number`.
fn words(text: &mut Text, name: &str, lines: &str) {
    text.head(name, "gauge", "Figures of the kernel's file of that name.");
    for line in lines.lines() {
        if let Some((item, value)) = line.split_once(' ')
            && let Ok(value) = value.trim().parse::<u64>()
        {
            text.value(name, &label("item", item), value);
        }
    }
}

fn load(text: &mut Text, line: &str) {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [one, five, fifteen, tasks, ..] = fields[..] else {
        return;
    };
    text.head("kata_guest_load", "gauge", "Load averages of the guest.");
    for (item, value) in [("load1", one), ("load5", five), ("load15", fifteen)] {
        text.value("kata_guest_load", &label("item", item), value);
    }
    if let Some((running, all)) = tasks.split_once('/') {
        text.head("kata_guest_tasks", "gauge", "Tasks of the guest.");
        text.value("kata_guest_tasks", &label("item", "cur"), running);
        text.value("kata_guest_tasks", &label("item", "max"), all);
    }
}

fn cpu(text: &mut Text, lines: &str) {
    const ITEMS: [&str; 10] = [
        "user",
        "nice",
        "system",
        "idle",
        "iowait",
        "irq",
        "softirq",
        "steal",
        "guest",
        "guest_nice",
    ];
    text.head(
        "kata_guest_cpu_time",
        "gauge",
        "Ticks of the guest's processors.",
    );
    for line in lines.lines().filter(|line| line.starts_with("cpu")) {
        let mut fields = line.split_whitespace();
        let cpu = match fields.next() {
            Some("cpu") => "total",
            Some(name) => name.trim_start_matches("cpu"),
            None => continue,
        };
        for (item, value) in ITEMS.iter().zip(fields) {
            let labels = format!("{},{}", label("cpu", cpu), label("item", item));
            text.value("kata_guest_cpu_time", &labels, value);
        }
    }
}

fn network(text: &mut Text, lines: &str) {
    const ITEMS: [(usize, &str); 8] = [
        (0, "recv_bytes"),
        (1, "recv_packets"),
        (2, "recv_errs"),
        (3, "recv_drop"),
        (8, "sent_bytes"),
        (9, "sent_packets"),
        (10, "sent_errs"),
        (11, "sent_drop"),
    ];
    text.head(
        "kata_guest_netdev_stat",
        "gauge",
        "Counters of the guest's interfaces.",
    );
    for line in lines.lines().skip(2) {
        let Some((name, rest)) = line.split_once(':') else {
            continue;
        };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        for (field, item) in ITEMS {
            if let Some(value) = fields.get(field) {
                let labels = format!(
                    "{},{}",
                    label("interface", name.trim()),
                    label("item", item)
                );
                text.value("kata_guest_netdev_stat", &labels, value);
            }
        }
    }
}

fn disks(text: &mut Text, lines: &str) {
    const ITEMS: [&str; 11] = [
        "reads",
        "reads_merged",
        "sectors_read",
        "time_reading",
        "writes",
        "writes_merged",
        "sectors_written",
        "time_writing",
        "in_progress",
        "time_in_progress",
        "weighted_time_in_progress",
    ];
    text.head(
        "kata_guest_diskstat",
        "gauge",
        "Counters of the guest's disks.",
    );
    for line in lines.lines() {
        let mut fields = line.split_whitespace().skip(2);
        let Some(disk) = fields.next() else { continue };
        for (item, value) in ITEMS.iter().zip(fields) {
            let labels = format!("{},{}", label("disk", disk), label("item", item));
            text.value("kata_guest_diskstat", &labels, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_this_machine_are_well_formed() {
        let text = collect();
        assert!(text.contains("kata_guest_meminfo{item=\"memtotal\"} "));
        assert!(text.contains("\nkata_agent_threads "));
        assert!(text.contains("kata_guest_cpu_time{cpu=\"total\",item=\"user\"} "));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (_, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }

    #[test]
    fn sizes_are_in_bytes() {
        let mut text = Text::default();
        pairs(&mut text, "m", "MemTotal:   2 kB\nHugePages: 3\nName: x\n");
        assert!(
            text.0
                .ends_with("m{item=\"memtotal\"} 2048\nm{item=\"hugepages\"} 3\n")
        );
    }

    #[test]
    fn a_label_cannot_end_itself() {
        assert_eq!(label("a", "x\"y\n\\"), "a=\"x\\\"y\\n\\\\\"");
    }
}
