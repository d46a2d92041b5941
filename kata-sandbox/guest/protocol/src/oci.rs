//! A runtime specification in the form that the agent is given.
//!
//! The messages follow config.json field for field, so this is a renaming. Two
//! conventions of the wire are not in the names: an optional number that is
//! absent travels as 0, and a device rule for any major or minor number has -1.
//! Fields for which the wire has no place ([`unsupported`]) are reported, so
//! that nothing is dropped in silence.

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::runtime as oci;
use serde::Serialize;

use crate::agent as wire;

/// The agent's form of a whole specification.
#[must_use]
pub fn spec(spec: &oci::Spec) -> wire::Spec {
    wire::Spec {
        version: spec.version().clone(),
        process: spec.process().as_ref().map(process),
        root: spec.root().as_ref().map(|root| wire::Root {
            path: text(root.path()),
            readonly: root.readonly().unwrap_or(false),
        }),
        hostname: word(spec.hostname()),
        mounts: each(spec.mounts(), mount),
        hooks: spec.hooks().as_ref().map(hooks),
        annotations: map(spec.annotations()),
        linux: spec.linux().as_ref().map(linux),
        solaris: None,
        windows: None,
        domainname: word(spec.domainname()),
    }
}

/// What in `spec` the agent cannot be told, by the path of the field.
#[must_use]
pub fn unsupported(spec: &oci::Spec) -> Vec<&'static str> {
    let linux = spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let process = spec.process().as_ref();
    let seccomp = linux.and_then(|linux| linux.seccomp().as_ref());
    let present = [
        (
            "process.execCPUAffinity",
            process.is_some_and(|p| p.exec_cpu_affinity().is_some()),
        ),
        (
            "linux.netDevices",
            linux.is_some_and(|l| l.net_devices().is_some()),
        ),
        (
            "linux.memoryPolicy",
            linux.is_some_and(|l| l.memory_policy().is_some()),
        ),
        (
            "linux.intelRdt",
            linux.is_some_and(|l| l.intel_rdt().is_some()),
        ),
        (
            "linux.resources.rdma",
            resources.is_some_and(|r| r.rdma().is_some()),
        ),
        (
            "linux.seccomp.listenerPath",
            seccomp.is_some_and(|s| s.listener_path().is_some()),
        ),
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
    ];
    present
        .into_iter()
        .filter_map(|(field, is_there)| is_there.then_some(field))
        .collect()
}

/// The agent's form of a process.
#[must_use]
pub fn process(process: &oci::Process) -> wire::Process {
    let user = process.user();
    wire::Process {
        terminal: process.terminal().unwrap_or(false),
        console_size: process.console_size().map(|size| wire::Box {
            height: u32::try_from(size.height()).unwrap_or(u32::MAX),
            width: u32::try_from(size.width()).unwrap_or(u32::MAX),
        }),
        user: Some(wire::User {
            uid: user.uid(),
            gid: user.gid(),
            additional_gids: list(user.additional_gids()),
            username: word(user.username()),
        }),
        args: list(process.args()),
        env: list(process.env()),
        cwd: text(process.cwd()),
        capabilities: process.capabilities().as_ref().map(capabilities),
        rlimits: each(process.rlimits(), |limit| wire::PosixRlimit {
            r#type: name(&limit.typ()),
            hard: limit.hard(),
            soft: limit.soft(),
        }),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        apparmor_profile: word(process.apparmor_profile()),
        oom_score_adj: process.oom_score_adj().unwrap_or(0).into(),
        selinux_label: word(process.selinux_label()),
        umask: user.umask(),
        scheduler: process
            .scheduler()
            .as_ref()
            .map(|scheduler| wire::Scheduler {
                policy: name(scheduler.policy()),
                nice: scheduler.nice().unwrap_or(0),
                priority: scheduler.priority().unwrap_or(0),
                flags: each(scheduler.flags(), name),
                runtime: scheduler.runtime().unwrap_or(0),
                deadline: scheduler.deadline().unwrap_or(0),
                period: scheduler.period().unwrap_or(0),
            }),
        io_priority: process
            .io_priority()
            .as_ref()
            .map(|priority| wire::IoPriority {
                class: name(&priority.class()),
                priority: priority.priority(),
            }),
    }
}

/// The agent's form of resource limits.
#[must_use]
pub fn resources(resources: &oci::LinuxResources) -> wire::LinuxResources {
    wire::LinuxResources {
        devices: each(resources.devices(), |rule| wire::LinuxDeviceCgroup {
            allow: rule.allow(),
            r#type: rule
                .typ()
                .map(|kind| kind.as_str().to_owned())
                .unwrap_or_default(),
            major: rule.major().unwrap_or(-1),
            minor: rule.minor().unwrap_or(-1),
            access: word(rule.access()),
        }),
        memory: resources.memory().as_ref().map(|memory| wire::LinuxMemory {
            limit: memory.limit().unwrap_or(0),
            reservation: memory.reservation().unwrap_or(0),
            swap: memory.swap().unwrap_or(0),
            kernel: memory.kernel().unwrap_or(0),
            kernel_tcp: memory.kernel_tcp().unwrap_or(0),
            swappiness: memory.swappiness().unwrap_or(0),
            disable_oom_killer: memory.disable_oom_killer().unwrap_or(false),
        }),
        cpu: resources.cpu().as_ref().map(|cpu| wire::LinuxCpu {
            shares: cpu.shares().unwrap_or(0),
            quota: cpu.quota().unwrap_or(0),
            period: cpu.period().unwrap_or(0),
            realtime_runtime: cpu.realtime_runtime().unwrap_or(0),
            realtime_period: cpu.realtime_period().unwrap_or(0),
            cpus: word(cpu.cpus()),
            mems: word(cpu.mems()),
            idle: cpu.idle(),
            burst: cpu.burst(),
        }),
        pids: resources.pids().as_ref().map(|pids| wire::LinuxPids {
            limit: pids.limit(),
        }),
        block_io: resources.block_io().as_ref().map(block_io),
        hugepage_limits: each(resources.hugepage_limits(), |limit| {
            wire::LinuxHugepageLimit {
                pagesize: limit.page_size().clone(),
                // A negative limit means none; the wire has only the largest number.
                limit: u64::try_from(limit.limit()).unwrap_or(u64::MAX),
            }
        }),
        network: resources
            .network()
            .as_ref()
            .map(|network| wire::LinuxNetwork {
                class_id: network.class_id().unwrap_or(0),
                priorities: each(network.priorities(), |priority| {
                    wire::LinuxInterfacePriority {
                        name: priority.name().clone(),
                        priority: priority.priority(),
                    }
                }),
            }),
        unified: map(resources.unified()),
    }
}

fn block_io(io: &oci::LinuxBlockIo) -> wire::LinuxBlockIo {
    let throttle = |devices: &Option<Vec<oci::LinuxThrottleDevice>>| {
        each(devices, |device| wire::LinuxThrottleDevice {
            major: device.major(),
            minor: device.minor(),
            rate: device.rate(),
        })
    };
    wire::LinuxBlockIo {
        weight: io.weight().unwrap_or(0).into(),
        leaf_weight: io.leaf_weight().unwrap_or(0).into(),
        weight_device: each(io.weight_device(), |device| wire::LinuxWeightDevice {
            major: device.major(),
            minor: device.minor(),
            weight: device.weight().unwrap_or(0).into(),
            leaf_weight: device.leaf_weight().unwrap_or(0).into(),
        }),
        throttle_read_bps_device: throttle(io.throttle_read_bps_device()),
        throttle_write_bps_device: throttle(io.throttle_write_bps_device()),
        throttle_read_iops_device: throttle(io.throttle_read_iops_device()),
        throttle_write_iops_device: throttle(io.throttle_write_iops_device()),
    }
}

fn capabilities(capabilities: &oci::LinuxCapabilities) -> wire::LinuxCapabilities {
    let set = |set: &Option<oci::Capabilities>| {
        let mut names: Vec<String> = set.iter().flatten().map(name).collect();
        names.sort_unstable();
        names
    };
    wire::LinuxCapabilities {
        bounding: set(capabilities.bounding()),
        effective: set(capabilities.effective()),
        inheritable: set(capabilities.inheritable()),
        permitted: set(capabilities.permitted()),
        ambient: set(capabilities.ambient()),
    }
}

fn mount(mount: &oci::Mount) -> wire::Mount {
    wire::Mount {
        destination: text(mount.destination()),
        source: mount.source().as_deref().map(text).unwrap_or_default(),
        r#type: word(mount.typ()),
        options: list(mount.options()),
        uid_mappings: each(mount.uid_mappings(), id_mapping),
        gid_mappings: each(mount.gid_mappings(), id_mapping),
    }
}

fn id_mapping(mapping: &oci::LinuxIdMapping) -> wire::LinuxIdMapping {
    wire::LinuxIdMapping {
        host_id: mapping.host_id(),
        container_id: mapping.container_id(),
        size: mapping.size(),
    }
}

fn hooks(hooks: &oci::Hooks) -> wire::Hooks {
    let hook = |hook: &oci::Hook| wire::Hook {
        path: text(hook.path()),
        args: list(hook.args()),
        env: list(hook.env()),
        timeout: hook.timeout().unwrap_or(0),
    };
    wire::Hooks {
        prestart: each(hooks.prestart(), hook),
        poststart: each(hooks.poststart(), hook),
        poststop: each(hooks.poststop(), hook),
        create_runtime: each(hooks.create_runtime(), hook),
        create_container: each(hooks.create_container(), hook),
        start_container: each(hooks.start_container(), hook),
    }
}

fn linux(linux: &oci::Linux) -> wire::Linux {
    wire::Linux {
        uid_mappings: each(linux.uid_mappings(), id_mapping),
        gid_mappings: each(linux.gid_mappings(), id_mapping),
        sysctl: map(linux.sysctl()),
        resources: linux.resources().as_ref().map(resources),
        cgroups_path: linux
            .cgroups_path()
            .as_deref()
            .map(text)
            .unwrap_or_default(),
        namespaces: each(linux.namespaces(), |namespace| wire::LinuxNamespace {
            r#type: name(&namespace.typ()),
            path: namespace.path().as_deref().map(text).unwrap_or_default(),
        }),
        devices: each(linux.devices(), |device| wire::LinuxDevice {
            path: text(device.path()),
            r#type: device.typ().as_str().to_owned(),
            major: device.major(),
            minor: device.minor(),
            file_mode: device.file_mode().unwrap_or(0),
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        }),
        seccomp: linux.seccomp().as_ref().map(seccomp),
        rootfs_propagation: word(linux.rootfs_propagation()),
        masked_paths: list(linux.masked_paths()),
        readonly_paths: list(linux.readonly_paths()),
        mount_label: word(linux.mount_label()),
        intel_rdt: None,
        personality: linux
            .personality()
            .as_ref()
            .map(|personality| wire::Personality {
                domain: name(&personality.domain()),
                flags: list(personality.flags()),
            }),
        time_offsets: linux
            .time_offsets()
            .iter()
            .flatten()
            .map(|(clock, offset)| {
                let secs = offset.secs().unwrap_or(0);
                let nanosecs = offset.nanosecs().unwrap_or(0);
                (clock.clone(), wire::LinuxTimeOffset { secs, nanosecs })
            })
            .collect(),
    }
}

fn seccomp(seccomp: &oci::LinuxSeccomp) -> wire::LinuxSeccomp {
    wire::LinuxSeccomp {
        default_action: name(&seccomp.default_action()),
        architectures: each(seccomp.architectures(), name),
        flags: each(seccomp.flags(), name),
        syscalls: each(seccomp.syscalls(), |rule| wire::LinuxSyscall {
            names: rule.names().clone(),
            action: name(&rule.action()),
            errno_ret: rule
                .errno_ret()
                .map(wire::linux_syscall::ErrnoRet::Errnoret),
            args: each(rule.args(), |argument| wire::LinuxSeccompArg {
                index: argument.index() as u64,
                value: argument.value(),
                value_two: argument.value_two().unwrap_or(0),
                op: name(&argument.op()),
            }),
        }),
        default_errno_ret: seccomp.default_errno_ret(),
    }
}

/// The name that a value has in config.json.
fn name<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => unreachable!("every enum of the specification is a string in config.json"),
    }
}

fn text(path: impl AsRef<Path>) -> String {
    // config.json is UTF-8, so a path that came from it is.
    path.as_ref().to_string_lossy().into_owned()
}

fn word(word: &Option<String>) -> String {
    word.clone().unwrap_or_default()
}

fn list<T: Clone>(list: &Option<Vec<T>>) -> Vec<T> {
    list.clone().unwrap_or_default()
}

fn each<T, U>(list: &Option<Vec<T>>, convert: impl FnMut(&T) -> U) -> Vec<U> {
    list.iter().flatten().map(convert).collect()
}

fn map(map: &Option<std::collections::HashMap<String, String>>) -> BTreeMap<String, String> {
    map.iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn from_json(json: serde_json::Value) -> wire::Spec {
        spec(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn the_default_specification_keeps_its_mounts_and_namespaces() {
        let default = oci::Spec::default();
        let sent = spec(&default);
        let destinations: Vec<_> = sent.mounts.iter().map(|m| m.destination.as_str()).collect();
        assert!(destinations.contains(&"/proc") && destinations.contains(&"/dev/pts"));
        let linux = sent.linux.unwrap();
        let kinds: Vec<_> = linux.namespaces.iter().map(|n| n.r#type.as_str()).collect();
        assert!(
            kinds.contains(&"pid") && kinds.contains(&"mount"),
            "{kinds:?}"
        );
        assert!(linux.masked_paths.contains(&"/proc/kcore".to_owned()));
        let capabilities = sent.process.unwrap().capabilities.unwrap();
        assert!(
            capabilities.bounding.contains(&"CAP_KILL".to_owned()),
            "{capabilities:?}"
        );
    }

    #[test]
    fn the_process_keeps_every_field() {
        let sent = from_json(json!({
            "ociVersion": "1.2.0",
            "process": {
                "terminal": true, "consoleSize": {"height": 25, "width": 80},
                "user": {"uid": 1, "gid": 2, "umask": 0o27, "additionalGids": [3, 4]},
                "args": ["sh", "-c", "true"], "env": ["A=b"], "cwd": "/w",
                "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}],
                "noNewPrivileges": true, "oomScoreAdj": -7,
                "scheduler": {"policy": "SCHED_BATCH", "nice": 8},
                "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 3},
            },
        }));
        let process = sent.process.unwrap();
        assert!(process.terminal && process.no_new_privileges);
        assert_eq!(
            process.console_size,
            Some(wire::Box {
                height: 25,
                width: 80
            })
        );
        assert_eq!(process.user.unwrap().additional_gids, [3, 4]);
        assert_eq!(process.umask, Some(0o27));
        assert_eq!(process.rlimits[0].r#type, "RLIMIT_NOFILE");
        assert_eq!(process.oom_score_adj, -7);
        assert_eq!(process.scheduler.unwrap().policy, "SCHED_BATCH");
        assert_eq!(process.io_priority.unwrap().class, "IOPRIO_CLASS_IDLE");
    }

    #[test]
    fn a_device_rule_for_any_number_travels_as_minus_one() {
        let sent = from_json(json!({
            "ociVersion": "1.2.0",
            "linux": {"resources": {
                "devices": [{"allow": false, "access": "rwm"}],
                "memory": {"limit": 1048576}, "pids": {"limit": 9},
                "cpu": {"shares": 512, "idle": 1}, "unified": {"memory.high": "1"},
                "hugepageLimits": [{"pageSize": "2MB", "limit": 4096}],
                "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}]},
            }},
        }));
        let resources = sent.linux.unwrap().resources.unwrap();
        assert_eq!(
            (resources.devices[0].major, resources.devices[0].minor),
            (-1, -1)
        );
        assert_eq!(resources.memory.unwrap().limit, 1 << 20);
        assert_eq!(resources.cpu.unwrap().idle, Some(1));
        assert_eq!(resources.unified["memory.high"], "1");
        assert_eq!(resources.hugepage_limits[0].limit, 4096);
        assert_eq!(
            resources.block_io.unwrap().throttle_read_bps_device[0].rate,
            600
        );
    }

    #[test]
    fn a_seccomp_profile_keeps_conditions_and_error_numbers() {
        let sent = from_json(json!({
            "ociVersion": "1.2.0",
            "linux": {"seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{
                    "names": ["clone"], "action": "SCMP_ACT_ALLOW",
                    "args": [{"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}],
                }, {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
            }},
        }));
        let seccomp = sent.linux.unwrap().seccomp.unwrap();
        assert_eq!(seccomp.default_action, "SCMP_ACT_ERRNO");
        assert_eq!(seccomp.default_errno_ret, Some(38));
        assert_eq!(seccomp.architectures, ["SCMP_ARCH_X86_64"]);
        assert_eq!(seccomp.syscalls[0].args[0].op, "SCMP_CMP_MASKED_EQ");
        let errno = Some(wire::linux_syscall::ErrnoRet::Errnoret(1));
        assert_eq!(seccomp.syscalls[1].errno_ret, errno);
    }

    #[test]
    fn what_the_wire_has_no_place_for_is_named() {
        let spec: oci::Spec = serde_json::from_value(json!({
            "ociVersion": "1.2.0",
            "linux": {"resources": {"rdma": {"mlx5_1": {"hcaHandles": 3}}}},
        }))
        .unwrap();
        assert_eq!(unsupported(&spec), ["linux.resources.rdma"]);
    }

    #[test]
    fn hooks_keep_their_kind_and_timeout() {
        let hook = json!([{"path": "/h", "args": ["h"], "timeout": 2}]);
        let sent = from_json(json!({
            "ociVersion": "1.2.0",
            "hooks": {"createContainer": hook, "poststop": hook},
        }));
        let hooks = sent.hooks.unwrap();
        assert_eq!(hooks.create_container[0].timeout, 2);
        assert_eq!(hooks.poststop[0].path, "/h");
        assert!(hooks.prestart.is_empty());
    }
}
