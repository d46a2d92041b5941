//! Limits of the OCI specification, which are cgroup v1's, as cgroup v2's.
//!
//! In the agent's messages a number that was not given is zero, which in none
//! of these files is a useful limit: zero leaves a file as it is.

use kata_protocol::agent::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice,
};
use kata_protocol::ttrpc::{Code, Status};
use log::warn;

use crate::process::refuse;

/// A value for a file of a control group.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) file: String,
    pub(super) value: String,
    /// A kernel without the file behaves as the value says.
    pub(super) optional: bool,
    /// What a kernel without the file may have instead.
    pub(super) instead: Option<(String, String)>,
}

fn setting(file: impl Into<String>, value: impl std::fmt::Display) -> Setting {
    Setting {
        file: file.into(),
        value: value.to_string(),
        optional: false,
        instead: None,
    }
}

/// All that is to be written, in order.
pub(super) fn settings(resources: &LinuxResources) -> Result<Vec<Setting>, Status> {
    let mut all = Vec::new();
    if let Some(cpu) = &resources.cpu {
        cpu_settings(cpu, &mut all)?;
    }
    if let Some(memory) = &resources.memory {
        memory_settings(memory, &mut all)?;
    }
    match resources.pids.as_ref().map_or(0, |pids| pids.limit) {
        0 => {}
        limit => all.push(setting("pids.max", maximum(limit))),
    }
    if let Some(io) = &resources.block_io {
        io_settings(io, &mut all)?;
    }
    for limit in &resources.hugepage_limits {
        let size = &limit.pagesize;
        if size.is_empty() || !size.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(refuse(format!(
                "hugepageLimits: {size:?} is no size of huge pages"
            )));
        }
        // The wire has the largest number for no limit.
        let value = i64::try_from(limit.limit).map_or_else(|_| "max".into(), maximum);
        all.push(setting(format!("hugetlb.{size}.max"), &value));
        let reserved = setting(format!("hugetlb.{size}.rsvd.max"), value);
        all.push(Setting {
            optional: true,
            ..reserved
        });
    }
    for (device, limits) in &resources.rdma {
        if device.is_empty() || device.contains(char::is_whitespace) {
            return Err(refuse(format!("rdma: {device:?} is no device")));
        }
        let part = |name: &str, limit: Option<u32>| {
            limit.map_or_else(String::new, |limit| format!(" {name}={limit}"))
        };
        let handles = part("hca_handle", limits.hca_handles);
        let objects = part("hca_object", limits.hca_objects);
        all.push(setting("rdma.max", format!("{device}{handles}{objects}")));
    }
    if resources
        .network
        .as_ref()
        .is_some_and(|n| n.class_id != 0 || !n.priorities.is_empty())
    {
        warn!("network classes and priorities are cgroup v1's; not applied");
    }
    for (file, value) in &resources.unified {
        if file.contains('/') || !file.contains('.') || file.starts_with("cgroup.") {
            return Err(refuse(format!(
                "unified: {file:?} is no limit of cgroup v2"
            )));
        }
        all.push(setting(file, value));
    }
    Ok(all)
}

fn maximum(limit: i64) -> String {
    if limit < 0 {
        "max".into()
    } else {
        limit.to_string()
    }
}

fn cpu_settings(cpu: &LinuxCpu, all: &mut Vec<Setting>) -> Result<(), Status> {
    if cpu.realtime_runtime != 0 || cpu.realtime_period != 0 {
        let message = "cpu: real-time CPU limits do not exist in cgroup v2, which the guest has";
        return Err(Status::new(Code::FailedPrecondition, message));
    }
    if cpu.shares != 0 {
        // 2 to 262144 become 1 to 10000.
        let shares = cpu.shares.clamp(2, 262_144);
        all.push(setting("cpu.weight", 1 + (shares - 2) * 9999 / 262_142));
    }
    if let Some(idle) = cpu.idle {
        all.push(setting("cpu.idle", idle));
    }
    if cpu.quota != 0 || cpu.period != 0 {
        let quota = if cpu.quota > 0 {
            cpu.quota.to_string()
        } else {
            "max".into()
        };
        let period = if cpu.period == 0 { 100_000 } else { cpu.period };
        all.push(setting("cpu.max", format!("{quota} {period}")));
    }
    if let Some(burst) = cpu.burst {
        all.push(setting("cpu.max.burst", burst));
    }
    if !cpu.cpus.is_empty() {
        all.push(setting("cpuset.cpus", &cpu.cpus));
    }
    if !cpu.mems.is_empty() {
        all.push(setting("cpuset.mems", &cpu.mems));
    }
    Ok(())
}

fn memory_settings(memory: &LinuxMemory, all: &mut Vec<Setting>) -> Result<(), Status> {
    if memory.swap != 0 {
        let value = swap(memory)?;
        // Without swap there is nothing to forbid or to allow.
        let optional = value == "0" || value == "max";
        all.push(Setting {
            optional,
            ..setting("memory.swap.max", value)
        });
    }
    if memory.limit != 0 {
        all.push(setting("memory.max", maximum(memory.limit)));
    }
    if memory.reservation != 0 {
        all.push(setting("memory.low", maximum(memory.reservation)));
    }
    if memory.disable_oom_killer {
        warn!("cgroup v2 cannot disable the out-of-memory killer; not applied");
    }
    Ok(())
}

/// cgroup v1 limits memory and swap together, v2 swap alone.
fn swap(memory: &LinuxMemory) -> Result<String, Status> {
    match (memory.swap, memory.limit) {
        (..0, _) | (_, ..0) => Ok("max".into()),
        (_, 0) => Err(refuse(
            "memory.swap: a limit of memory and swap together needs one of memory",
        )),
        (both, limit) if both < limit => Err(refuse(format!(
            "memory.swap: memory and swap ({both}) are less than memory alone ({limit})"
        ))),
        (both, limit) => Ok((both - limit).to_string()),
    }
}

fn io_settings(io: &LinuxBlockIo, all: &mut Vec<Setting>) -> Result<(), Status> {
    if io.weight != 0 {
        all.push(weight("default", io.weight)?);
    }
    for device in io.weight_device.iter().filter(|device| device.weight != 0) {
        let whose = format!("{}:{}", device.major, device.minor);
        all.push(weight(&whose, device.weight)?);
    }
    let mut throttle = |key, devices: &[LinuxThrottleDevice]| {
        for LinuxThrottleDevice { major, minor, rate } in devices {
            let rate = if *rate == 0 {
                "max".to_owned()
            } else {
                rate.to_string()
            };
            all.push(setting("io.max", format!("{major}:{minor} {key}={rate}")));
        }
    };
    throttle("rbps", &io.throttle_read_bps_device);
    throttle("wbps", &io.throttle_write_bps_device);
    throttle("riops", &io.throttle_read_iops_device);
    throttle("wiops", &io.throttle_write_iops_device);
    Ok(())
}

/// The weight of a device, or of all others. The scheduler BFQ has a file of its
/// own, with the specification's range.
fn weight(whose: &str, weight: u32) -> Result<Setting, Status> {
    Ok(Setting {
        instead: Some(("io.bfq.weight".into(), format!("{whose} {weight}"))),
        ..setting("io.weight", format!("{whose} {}", io_weight(weight)?))
    })
}

/// 10 to 1000 become 1 to 10000.
fn io_weight(weight: u32) -> Result<u32, Status> {
    match weight {
        10..=1000 => Ok(1 + (weight - 10) * 9999 / 990),
        _ => Err(refuse(format!(
            "blockIO: the I/O weight {weight} is not within 10 to 1000"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kata_protocol::agent::{LinuxHugepageLimit, LinuxPids};

    fn of(resources: &LinuxResources) -> Vec<(String, String)> {
        settings(resources)
            .unwrap()
            .into_iter()
            .map(|s| (s.file, s.value))
            .collect()
    }

    fn pair(file: &str, value: &str) -> (String, String) {
        (file.into(), value.into())
    }

    #[test]
    fn nothing_given_changes_nothing() {
        let resources = LinuxResources {
            cpu: Some(LinuxCpu::default()),
            memory: Some(LinuxMemory::default()),
            pids: Some(LinuxPids::default()),
            block_io: Some(LinuxBlockIo::default()),
            ..LinuxResources::default()
        };
        assert_eq!(of(&resources), []);
    }

    #[test]
    fn shares_quota_and_period_become_weight_and_maximum() {
        let cpu = |shares, quota, period| {
            let cpu = LinuxCpu {
                shares,
                quota,
                period,
                ..LinuxCpu::default()
            };
            of(&LinuxResources {
                cpu: Some(cpu),
                ..LinuxResources::default()
            })
        };
        assert_eq!(cpu(1024, 0, 0), [pair("cpu.weight", "39")]);
        assert_eq!(cpu(262_144, 0, 0), [pair("cpu.weight", "10000")]);
        assert_eq!(cpu(0, 50_000, 0), [pair("cpu.max", "50000 100000")]);
        assert_eq!(cpu(0, -1, 200_000), [pair("cpu.max", "max 200000")]);
    }

    #[test]
    fn swap_is_what_is_over_memory() {
        let memory = |limit, swap| {
            let memory = LinuxMemory {
                limit,
                swap,
                ..LinuxMemory::default()
            };
            settings(&LinuxResources {
                memory: Some(memory),
                ..LinuxResources::default()
            })
        };
        let first = |limit, swap| memory(limit, swap).unwrap().remove(0);
        assert_eq!(first(100, 150).value, "50");
        assert_eq!(first(100, 100).value, "0");
        assert!(first(100, 100).optional && !first(100, 150).optional);
        assert_eq!(first(100, -1).value, "max");
        assert!(memory(0, 100).is_err());
        assert!(memory(100, 50).is_err());
    }

    #[test]
    fn throttles_pids_huge_pages_and_unified_values_are_passed_on() {
        let throttle = |rate| {
            vec![LinuxThrottleDevice {
                major: 254,
                minor: 0,
                rate,
            }]
        };
        let resources = LinuxResources {
            pids: Some(LinuxPids { limit: -1 }),
            block_io: Some(LinuxBlockIo {
                weight: 1000,
                throttle_read_bps_device: throttle(1 << 20),
                throttle_write_iops_device: throttle(7),
                ..LinuxBlockIo::default()
            }),
            hugepage_limits: vec![LinuxHugepageLimit {
                pagesize: "2MB".into(),
                limit: 4 << 20,
            }],
            unified: [pair("memory.high", "1G")].into(),
            ..LinuxResources::default()
        };
        assert_eq!(
            of(&resources),
            [
                pair("pids.max", "max"),
                pair("io.weight", "default 10000"),
                pair("io.max", "254:0 rbps=1048576"),
                pair("io.max", "254:0 wiops=7"),
                pair("hugetlb.2MB.max", "4194304"),
                pair("hugetlb.2MB.rsvd.max", "4194304"),
                pair("memory.high", "1G"),
            ]
        );
    }

    #[test]
    fn rdma_and_weights_have_the_kernel_s_form() {
        use kata_protocol::agent::{LinuxRdma, LinuxWeightDevice};
        let limits = LinuxRdma {
            hca_handles: Some(3),
            hca_objects: None,
        };
        let device = LinuxWeightDevice {
            major: 8,
            minor: 0,
            weight: 1000,
            leaf_weight: 0,
        };
        let resources = LinuxResources {
            rdma: [("mlx5_1".to_owned(), limits)].into(),
            block_io: Some(LinuxBlockIo {
                weight_device: vec![device],
                ..LinuxBlockIo::default()
            }),
            hugepage_limits: vec![LinuxHugepageLimit {
                pagesize: "2MB".into(),
                limit: u64::MAX,
            }],
            ..LinuxResources::default()
        };
        let all = settings(&resources).unwrap();
        let weight = &all[0];
        assert_eq!(
            (weight.file.as_str(), weight.value.as_str()),
            ("io.weight", "8:0 10000")
        );
        assert_eq!(weight.instead, Some(pair("io.bfq.weight", "8:0 1000")));
        assert_eq!(all[1].value, "max");
        assert_eq!(all[3].value, "mlx5_1 hca_handle=3");
    }

    #[test]
    fn what_is_no_limit_is_refused() {
        for file in ["cgroup.procs", "../x.y", "memory"] {
            let unified = [pair(file, "1")].into();
            assert!(
                settings(&LinuxResources {
                    unified,
                    ..LinuxResources::default()
                })
                .is_err()
            );
        }
    }
}
