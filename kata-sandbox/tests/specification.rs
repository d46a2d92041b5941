//! What the OCI runtime specification may ask for, in a real guest.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Host, text};
use kata_sandbox::{Container, ErrorKind, Exit, Sandbox, StdioMode, oci};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

/// Lays `more` over a specification: objects are merged, lists extended.
fn lay(over: &mut Value, more: Value) {
    match (over, more) {
        (Value::Object(over), Value::Object(more)) => {
            for (key, value) in more {
                lay(over.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(over), Value::Array(more)) => over.extend(more),
        (over, more) => *over = more,
    }
}

fn change(spec: &mut oci::Spec, more: Value) {
    let mut json = serde_json::to_value(&*spec).unwrap();
    lay(&mut json, more);
    *spec = serde_json::from_value(json).unwrap();
}

async fn create(
    host: &Host,
    sandbox: &Sandbox,
    id: &str,
    script: &str,
    more: Value,
) -> kata_sandbox::Result<Container> {
    let rootfs = host.rootfs(id);
    let spec = host
        .spec(&rootfs, script)
        .edit_oci(|spec| change(spec, more));
    sandbox.container(id, spec.stdio(StdioMode::Piped)).await
}

/// Runs a script in a container that is as `more` says; gives its output.
async fn run(host: &Host, sandbox: &Sandbox, id: &str, script: &str, more: Value) -> String {
    let container = create(host, sandbox, id, script, more).await.unwrap();
    let mut process = container.start().await.unwrap();
    let mut output = Vec::new();
    let mut stdout = process.take_stdout().unwrap();
    stdout.read_to_end(&mut output).await.unwrap();
    assert!(matches!(process.wait().await.unwrap(), Exit::Code(_)));
    container.delete().await.unwrap();
    text(&output)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_what_its_specification_says() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let sandbox = host.start(&runtime, "process").await;
    let script = "id -u; id -g; id -G; umask; pwd; ulimit -n; echo $A; hostname; uname -m; \
                  cat /proc/sys/kernel/domainname /proc/self/oom_score_adj; \
                  grep -E 'CapAmb|NoNewPrivs|Seccomp:' /proc/self/status; \
                  read line < /proc/$$/stat; set -- $line; echo ${19} ${41}; ionice -p $$; \
                  mkdir /tmp/d 2>&1";
    let more = json!({
        "hostname": "own", "domainname": "example.org",
        "process": {
            "user": {"uid": 1000, "gid": 1001, "umask": 23, "additionalGids": [50]},
            "cwd": "/srv/made", "env": ["A=b"], "noNewPrivileges": true, "oomScoreAdj": 77,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 88, "hard": 99}],
            "capabilities": {"inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]},
            "scheduler": {"policy": "SCHED_BATCH", "nice": 5},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6},
        },
        "linux": {
            "personality": {"domain": "LINUX32"},
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            ]},
        },
    });
    let output = run(&host, &sandbox, "c", script, more).await;
    let machine = if cfg!(target_arch = "x86_64") {
        "i686"
    } else {
        "armv8l"
    };
    let expected = format!(
        "1000\n1001\n1001 50\n0027\n/srv/made\n88\nb\nown\n{machine}\nexample.org\n77\n\
         CapAmb:\t0000000000000020\nNoNewPrivs:\t1\nSeccomp:\t2\n5 3\nbest-effort: prio 6\n\
         mkdir: can't create directory '/tmp/d': Function not implemented\n"
    );
    assert_eq!(output, expected);
    sandbox.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mounts_devices_and_paths_are_what_their_specification_says() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let sandbox = host.start(&runtime, "mounts").await;
    let script = "grep -oE ' /(sys|dev/mqueue|sys/fs/cgroup|mnt|etc) [a-z0-9]+ r[ow]' /proc/mounts; \
                  cat /etc/passwd | head -n 1; stat -c '%a %t:%T' /dev/own; \
                  cat /proc/sys/kernel/shm_rmid_forced; cat /etc/group; ls /data | wc -l; \
                  touch /tmp/x 2>&1; grep -o 'shared:' /proc/self/mountinfo | head -n 1; \
                  cat /proc/uptime";
    let more = json!({
        "mounts": [
            {"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "size=1m"]},
            {"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]},
        ],
        "linux": {
            "devices": [{"path": "/dev/own", "type": "c", "major": 1, "minor": 5, "fileMode": 384}],
            "sysctl": {"kernel.shm_rmid_forced": "1"},
            "maskedPaths": ["/etc/group", "/data"], "readonlyPaths": ["/tmp"],
            "rootfsPropagation": "shared",
            "timeOffsets": {"boottime": {"secs": 1_000_000_000}},
            "namespaces": [{"type": "time"}],
        },
    });
    let output = run(&host, &sandbox, "c", script, more).await;
    let lines: Vec<_> = output.lines().collect();
    let (mounts, rest) = lines.split_at(lines.len() - 7);
    for expected in [
        " /sys sysfs ro",
        " /dev/mqueue mqueue rw",
        " /sys/fs/cgroup cgroup2 ro",
        " /mnt tmpfs ro",
        " /etc tmpfs rw",
    ] {
        assert!(mounts.contains(&expected), "{expected}: {output}");
    }
    assert_eq!(rest[0], "root:x:0:0:root:/:/bin/sh");
    assert_eq!(rest[1..4], ["600 1:5", "1", "0"]);
    assert!(rest[4].ends_with("Read-only file system"), "{output}");
    assert_eq!(rest[5], "shared:");
    assert!(rest[6].starts_with("10000"), "{output}");
    sandbox.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_had_is_refused_by_its_field() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let sandbox = host.start(&runtime, "refused").await;
    let hugepages = json!([{"pageSize": "7MB", "limit": 4096}]);
    let clock = json!({"realtime": {"secs": 1}});
    for (field, more) in [
        (
            "linux.resources",
            json!({"linux": {"resources": {"hugepageLimits": hugepages}}}),
        ),
        (
            "linux.sysctl",
            json!({"linux": {"sysctl": {"../../etc/passwd": "x"}}}),
        ),
        (
            "linux.rootfsPropagation",
            json!({"linux": {"rootfsPropagation": "sideways"}}),
        ),
        (
            "linux.timeOffsets",
            json!({"linux": {"timeOffsets": clock}}),
        ),
        (
            "process.rlimits",
            json!({"process": {"rlimits": [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]}}),
        ),
        (
            "linux.seccomp.listenerPath",
            json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/l"}}}),
        ),
        (
            "mounts[",
            json!({"mounts": [{"destination": "/x", "type": "nosuchfs", "source": "x"}]}),
        ),
    ] {
        let error = create(&host, &sandbox, "c", "true", more)
            .await
            .unwrap_err();
        assert!(format!("{error:#}").contains(field), "{field}: {error:#}");
    }
    // A hook in the container that fails, with its words.
    let hook = json!({
        "path": "/bin/sh", "args": ["sh", "-c", "echo no luck >&2; exit 5"],
    });
    let more = json!({"hooks": {"startContainer": [hook]}});
    let container = create(&host, &sandbox, "c", "true", more).await.unwrap();
    let error = container.start().await.unwrap_err();
    assert_ne!(error.kind(), ErrorKind::NotFound, "{error:#}");
    let message = "hooks.startContainer: hook /bin/sh: exit status 5: no luck";
    assert!(format!("{error:#}").contains(message), "{error:#}");
    container.delete().await.unwrap();
    sandbox.stop(Duration::from_secs(5)).await.unwrap();
}
