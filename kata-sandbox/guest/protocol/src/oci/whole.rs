//! That nothing a specification can say is lost on the way to the agent.

use serde_json::{Value, json};

use super::*;

/// A specification in which everything is set that `oci_spec` knows of Linux,
/// and nothing has the value that leaving it out means.
fn whole() -> Value {
    let mapping = json!([{"hostID": 100_000, "containerID": 1, "size": 65_536}]);
    let hook = |path: &str| json!([{"path": path, "args": ["h"], "env": ["A=b"], "timeout": 2}]);
    json!({
        "ociVersion": "1.2.0",
        "uidMappings": mapping, "gidMappings": mapping,
        "hostname": "host", "domainname": "domain",
        "root": {"path": "rootfs", "readonly": true},
        "annotations": {"key": "value"},
        "mounts": [{
            "destination": "/d", "source": "/s", "type": "bind", "options": ["ro"],
            "uidMappings": mapping, "gidMappings": mapping,
        }],
        "hooks": {
            "prestart": hook("/1"), "createRuntime": hook("/2"), "createContainer": hook("/3"),
            "startContainer": hook("/4"), "poststart": hook("/5"), "poststop": hook("/6"),
        },
        "process": {
            "terminal": true, "consoleSize": {"height": 25, "width": 80},
            "user": {
                "uid": 1, "gid": 2, "umask": 23, "additionalGids": [3], "username": "bob",
            },
            "args": ["sh"], "env": ["A=b"], "cwd": "/w",
            "commandLine": "c",
            "capabilities": {
                "bounding": ["CAP_KILL"], "effective": ["CAP_CHOWN"], "inheritable": ["CAP_SETUID"],
                "permitted": ["CAP_SETGID"], "ambient": ["CAP_MKNOD"],
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}],
            "noNewPrivileges": true, "apparmorProfile": "a", "oomScoreAdj": -7, "selinuxLabel": "s",
            "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 3},
            "scheduler": {
                "policy": "SCHED_DEADLINE", "nice": 8, "priority": 9, "flags": ["SCHED_FLAG_RECLAIM"],
                "runtime": 10, "deadline": 11, "period": 12,
            },
            "execCPUAffinity": {"initial": "0", "final": "1"},
        },
        "linux": linux_whole(),
    })
}

fn linux_whole() -> Value {
    let mapping = json!([{"hostID": 100_000, "containerID": 1, "size": 65_536}]);
    json!({
        "uidMappings": mapping, "gidMappings": mapping,
        "sysctl": {"net.a": "1"},
        "cgroupsPath": "/c",
        "namespaces": [{"type": "network", "path": "/n"}],
        "netDevices": {"eth0": {"name": "eth1"}},
        "devices": [{
            "path": "/dev/x", "type": "c", "major": 1, "minor": 2, "fileMode": 384,
            "uid": 3, "gid": 4,
        }],
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64"], "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "listenerPath": "/l", "listenerMetadata": "m",
            "syscalls": [{
                "names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 2,
                "args": [{"index": 1, "value": 2, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}],
            }],
        },
        "rootfsPropagation": "shared",
        "maskedPaths": ["/m"], "readonlyPaths": ["/r"], "mountLabel": "l",
        "intelRdt": {
            "closID": "c", "schemata": ["s"], "l3CacheSchema": "L3", "memBwSchema": "MB",
            // Two that the library spells otherwise than the specification.
            "enableCmt": true, "enableMbm": true, "enableMonitoring": true,
        },
        "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]},
        "personality": {"domain": "LINUX32", "flags": ["f"]},
        "timeOffsets": {"monotonic": {"secs": 1, "nanosecs": 2}},
        "resources": resources_whole(),
    })
}

fn resources_whole() -> Value {
    let throttle = |rate: u64| json!([{"major": 8, "minor": 1, "rate": rate}]);
    json!({
        "devices": [{
            "allow": true, "type": "c", "major": 1, "minor": 2, "access": "rw",
        }],
        "memory": {
            "limit": 1, "reservation": 2, "swap": 3, "kernel": 4, "kernelTCP": 5,
            "swappiness": 6, "disableOOMKiller": true, "useHierarchy": false,
            "checkBeforeUpdate": true,
        },
        "cpu": {
            "shares": 1, "quota": 2, "idle": 1, "burst": 4, "period": 5,
            "realtimeRuntime": 6, "realtimePeriod": 7, "cpus": "0", "mems": "1",
        },
        "pids": {"limit": 9},
        "blockIO": {
            "weight": 10, "leafWeight": 11,
            "weightDevice": [{"major": 8, "minor": 1, "weight": 12, "leafWeight": 13}],
            "throttleReadBpsDevice": throttle(1), "throttleWriteBpsDevice": throttle(2),
            "throttleReadIOPSDevice": throttle(3), "throttleWriteIOPSDevice": throttle(4),
        },
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4096}],
        "network": {"classID": 1, "priorities": [{"name": "eth0", "priority": 2}]},
        "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 4}},
        "unified": {"memory.high": "1"},
    })
}

/// Other systems' parts, which are refused as a whole.
const ELSEWHERE: [&str; 4] = ["solaris", "windows", "vm", "zos"];

/// Whatever differs when the value changes.
fn told(json: &Value) -> (wire::Spec, Vec<&'static str>) {
    let parsed: oci::Spec = serde_json::from_value(json.clone()).unwrap();
    (spec(&parsed), unsupported(&parsed))
}

/// The paths of all values that hold no others.
fn leaves(json: &Value, path: String, all: &mut Vec<String>) {
    match json {
        Value::Object(map) => map
            .iter()
            .for_each(|(key, value)| leaves(value, format!("{path}/{key}"), all)),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .for_each(|(index, value)| leaves(value, format!("{path}/{index}"), all)),
        _ => all.push(path),
    }
}

/// Another value of the same sort; for names of things, another such name.
fn changed(value: &Value) -> Value {
    let others = [
        ("SCMP_ACT_ERRNO", "SCMP_ACT_TRAP"),
        ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"),
        ("SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"),
        ("SCMP_CMP_MASKED_EQ", "SCMP_CMP_EQ"),
        ("RLIMIT_NOFILE", "RLIMIT_CORE"),
        ("IOPRIO_CLASS_IDLE", "IOPRIO_CLASS_BE"),
        ("SCHED_DEADLINE", "SCHED_FIFO"),
        ("SCHED_FLAG_RECLAIM", "SCHED_FLAG_KEEP_POLICY"),
        ("LINUX32", "LINUX"),
        ("network", "pid"),
        ("c", "b"),
    ];
    match value {
        Value::Bool(value) => json!(!value),
        Value::Number(_) => json!(value.as_i64().unwrap() + 1),
        Value::String(text) if text.starts_with("CAP_") => json!("CAP_SYSLOG"),
        Value::String(text) => others
            .iter()
            .find(|(name, _)| name == text)
            .map_or_else(|| json!(format!("{text}1")), |(_, other)| json!(other)),
        other => panic!("{other} holds nothing"),
    }
}

#[test]
fn the_sample_sets_everything_there_is() {
    let parsed: oci::Spec = serde_json::from_value(whole()).unwrap();
    let shown = format!("{parsed:#?}");
    let unset: Vec<_> = shown
        .lines()
        .filter_map(|line| line.trim().strip_suffix(": None,"))
        .collect();
    let mut expected = ELSEWHERE.to_vec();
    expected.sort_unstable();
    let mut unset = unset;
    unset.sort_unstable();
    assert_eq!(unset, expected, "new fields? add them to the sample");
}

#[test]
fn every_field_that_is_set_reaches_the_agent_or_is_named_as_unsupported() {
    let whole = whole();
    let (sent, refused) = told(&whole);
    let mut all = Vec::new();
    leaves(&whole, String::new(), &mut all);
    assert!(all.len() > 120, "{}", all.len());
    for leaf in all {
        let dotted = leaf[1..].replace('/', ".");
        if refused.iter().any(|field| dotted.starts_with(field)) {
            continue;
        }
        let mut other = whole.clone();
        let place = other.pointer_mut(&leaf).unwrap();
        *place = changed(place);
        assert!(told(&other).0 != sent, "{dotted} is lost on the way");
    }
}
