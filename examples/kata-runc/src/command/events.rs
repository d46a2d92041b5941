//! What a container uses, and what befalls it, a line of JSON each.

use std::time::Duration;

use kata_sandbox::{Container, ContainerStats, Event, MemoryUse, Sandbox};
use serde_json::{Map, Value, json};

use super::print;
use crate::cli::{Arguments, Globals};
use crate::client;
use crate::failure::{Failure, Result};
use crate::root::Root;
use crate::state::{Record, Status};

/// What cgroup v1 says where nothing is limited, which readers of runc know.
const UNLIMITED: u64 = 9_223_372_036_854_771_712;

/// The command.
pub(crate) fn events(globals: &Globals, arguments: &Arguments) -> Result<u8> {
    let record = Root::open(&globals.root)?.load(arguments.argument(0)?)?;
    let interval = arguments.duration("interval").unwrap_or_default();
    if interval.is_zero() {
        return Err(Failure::new("duration interval must be greater than 0"));
    }
    let id = &record.id;
    let stopped = || Failure::new(format!("container with id {id} is not running"));
    if matches!(record.status(), Status::Stopped | Status::Creating) {
        return Err(stopped());
    }
    client::block_on(async {
        let sandbox = client::sandbox(globals, &record)
            .await?
            .ok_or_else(stopped)?;
        let container = sandbox.get(&record.guest_id)?;
        if arguments.has("stats") {
            print(&stats_line(id, &container.stats().await?))?;
        } else {
            follow(&record, &sandbox, &container, interval).await?;
        }
        Ok(0)
    })?
}

/// Until the container has ended.
async fn follow(
    record: &Record,
    sandbox: &Sandbox,
    container: &Container,
    interval: Duration,
) -> Result<()> {
    let id = &record.id;
    let mut events = sandbox.events();
    let mut ticks = tokio::time::interval(interval);
    ticks.tick().await;
    let mut ended = std::pin::pin!(container.wait());
    loop {
        tokio::select! {
            biased;
            _ = &mut ended => return Ok(()),
            event = events.next() => match event {
                None => return Ok(()),
                Some(Event::Oom { container, .. }) if container == record.guest_id => {
                    print(&format!("{}\n", json!({"type": "oom", "id": id})))?;
                }
                Some(_) => {}
            },
            _ = ticks.tick() => match container.stats().await {
                Ok(stats) => drop(print(&stats_line(id, &stats))?),
                Err(error) if client::is_gone(&error) => return Ok(()),
                Err(error) => log::error!("{}", Failure::from(error)),
            },
        }
    }
}

/// A line as runc prints it.
fn stats_line(id: &str, stats: &ContainerStats) -> String {
    let line = json!({
        "type": "stats",
        "id": id,
        "data": {
            "cpu": cpu(stats),
            "cpuset": {},
            "memory": memory(stats),
            "pids": pids(stats),
            "blkio": blkio(stats),
            "hugetlb": hugetlb(stats),
            "intel_rdt": {},
            "network_interfaces": interfaces(stats),
        },
    });
    format!("{line}\n")
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn cpu(stats: &ContainerStats) -> Value {
    json!({
        "usage": {
            "total": nanos(stats.cpu),
            "kernel": nanos(stats.cpu_kernel),
            "user": nanos(stats.cpu_user),
        },
        "throttling": {
            "periods": stats.cpu_periods,
            "throttledPeriods": stats.cpu_throttled_periods,
            "throttledTime": nanos(stats.cpu_throttled),
        },
    })
}

fn memory(stats: &ContainerStats) -> Value {
    json!({
        "cache": stats.memory_stat.get("file").copied().unwrap_or_default(),
        "usage": entry(&stats.memory_use),
        "swap": entry(&stats.swap),
        "kernel": {
            "limit": UNLIMITED,
            "usage": stats.kernel_memory.as_bytes(),
            "failcnt": 0,
        },
        "kernelTCP": {"limit": UNLIMITED, "failcnt": 0},
        "raw": stats.memory_stat,
    })
}

fn entry(memory: &MemoryUse) -> Value {
    json!({
        "limit": memory.limit.map_or(UNLIMITED, |limit| limit.as_bytes()),
        "usage": memory.usage.as_bytes(),
        "max": memory.peak.as_bytes(),
        "failcnt": memory.failures,
    })
}

fn pids(stats: &ContainerStats) -> Value {
    let mut pids = json!({"current": stats.pids});
    if let Some(limit) = stats.pids_limit {
        pids["limit"] = limit.into();
    }
    pids
}

/// Bytes and operations per device, as `blkio.throttle` counts them.
fn blkio(stats: &ContainerStats) -> Value {
    let mut bytes = Vec::new();
    let mut counts = Vec::new();
    for block in &stats.block {
        for (name, moved) in [("Read", block.read), ("Write", block.written)] {
            let entry = |value: u64| json!({"major": block.major, "minor": block.minor, "op": name, "value": value});
            bytes.push(entry(moved.bytes));
            counts.push(entry(moved.requests));
        }
    }
    match bytes.is_empty() {
        true => json!({}),
        false => json!({
            "ioServiceBytesRecursive": bytes,
            "ioServicedRecursive": counts,
        }),
    }
}

fn hugetlb(stats: &ContainerStats) -> Value {
    let sizes = stats.huge_pages.iter().map(|(size, use_of)| {
        let value = json!({
            "usage": use_of.usage.as_bytes(),
            "max": use_of.peak.as_bytes(),
            "failcnt": use_of.failures,
        });
        (size.clone(), value)
    });
    Value::Object(sizes.collect::<Map<_, _>>())
}

fn interfaces(stats: &ContainerStats) -> Value {
    if stats.interfaces.is_empty() {
        return Value::Null;
    }
    let each = stats.interfaces.iter().map(|interface| {
        json!({
            "Name": interface.name,
            "RxBytes": interface.received,
            "RxPackets": interface.received_packets,
            "RxErrors": interface.receive_errors,
            "RxDropped": interface.receive_dropped,
            "TxBytes": interface.sent,
            "TxPackets": interface.sent_packets,
            "TxErrors": interface.send_errors,
            "TxDropped": interface.send_dropped,
        })
    });
    Value::Array(each.collect())
}
