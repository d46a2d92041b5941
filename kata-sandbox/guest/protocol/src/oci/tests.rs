//! What single fields become on the wire.

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
        "linux": {"netDevices": {"eth0": {}}},
    }))
    .unwrap();
    assert_eq!(unsupported(&spec), ["linux.netDevices"]);
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

#[test]
fn flags_of_the_scheduler_have_the_specification_s_names() {
    use oci::LinuxSchedulerFlag as Flag;
    assert_eq!(
        scheduler_flag(&Flag::SchedResetOnFork),
        "SCHED_FLAG_RESET_ON_FORK"
    );
    assert_eq!(
        scheduler_flag(&Flag::SchedFlagDLOverrun),
        "SCHED_FLAG_DL_OVERRUN"
    );
    assert_eq!(
        scheduler_flag(&Flag::SchedFlagReclaim),
        "SCHED_FLAG_RECLAIM"
    );
}
