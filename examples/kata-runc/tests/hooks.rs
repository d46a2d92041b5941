//! Hooks of the host (OCI runtime specification, "POSIX-platform Hooks" and
//! "Lifecycle"): the same for runc and for kata-runc.
#![expect(clippy::unwrap_used, reason = "a suite ends where it fails")]

mod common;

use std::path::PathBuf;

use common::{Runtime, lacks_guest, runtimes};
use serde_json::{Value, json};

const SLEEP: &[&str] = &["/bin/sleep", "1000"];

fn with_each(story: impl Fn(&Runtime)) {
    if let Some(reason) = lacks_guest() {
        return eprintln!("skipped: {reason}");
    }
    for runtime in runtimes() {
        story(&runtime);
    }
}

fn notes(runtime: &Runtime) -> PathBuf {
    runtime.directory.path().join("notes")
}

/// A hook that notes its name, its namespaces of mounts and network, and the
/// state that it is told.
fn noting(runtime: &Runtime, name: &str) -> Value {
    let path = notes(runtime);
    let script = format!(
        "printf '%s %s %s ' $0 $(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/net) >> {0}; \
         tr -d '\\n' >> {0}; echo >> {0}",
        path.display()
    );
    json!({"path": "/bin/sh", "args": ["sh", "-c", script, name], "env": ["PATH=/usr/bin:/bin"]})
}

fn failing() -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", "echo sorry >&2; exit 3"]})
}

/// Name, mount namespace, network namespace and state of each that was noted.
fn noted(runtime: &Runtime) -> Vec<(String, String, String, Value)> {
    let text = std::fs::read_to_string(notes(runtime)).unwrap_or_default();
    let each = text.lines().map(|line| {
        let mut words = line.splitn(4, ' ').map(str::to_owned);
        let mut next = || words.next().unwrap();
        let (name, mounts, network) = (next(), next(), next());
        (
            name,
            mounts,
            network,
            serde_json::from_str(&next()).unwrap(),
        )
    });
    each.collect()
}

fn names(runtime: &Runtime) -> Vec<String> {
    noted(runtime).into_iter().map(|(name, ..)| name).collect()
}

#[test]
fn hooks_of_the_host_run_in_its_namespaces_in_their_order_with_the_state() {
    with_each(|runtime| {
        let bundle = runtime.bundle_with(SLEEP, |spec| {
            let kinds = ["prestart", "createRuntime", "poststart", "poststop"];
            for kind in kinds {
                let two = [1, 2].map(|number| noting(runtime, &format!("{kind}-{number}")));
                spec["hooks"][kind] = json!(two);
            }
            spec["annotations"] = json!({"a": "b"});
        });
        runtime.ok(&["create", "c1"]);
        let created = [
            "prestart-1",
            "prestart-2",
            "createRuntime-1",
            "createRuntime-2",
        ];
        // runc 1.1 has those after the start here, too.
        assert_eq!(names(runtime)[..4], created, "{}", runtime.name);
        let pid = runtime.state("c1")["pid"].clone();
        runtime.ok(&["start", "c1"]);
        assert_eq!(
            names(runtime)[4..],
            ["poststart-1", "poststart-2"],
            "{}",
            runtime.name
        );
        runtime.ok(&["delete", "--force", "c1"]);
        assert_eq!(
            names(runtime)[6..],
            ["poststop-1", "poststop-2"],
            "{}",
            runtime.name
        );
        let own = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        for (name, mounts, network, state) in noted(runtime) {
            let seen = (PathBuf::from(mounts), PathBuf::from(network));
            assert_eq!(seen, (own("mnt"), own("net")), "{} {name}", runtime.name);
            assert_eq!(state["id"], "c1");
            assert_eq!(state["bundle"], bundle.to_str().unwrap());
            assert_eq!(state["annotations"]["a"], "b");
            let status = match name.split('-').next().unwrap() {
                "poststart" if runtime.name == "runc" => "created",
                "poststart" => "running",
                "poststop" => "stopped",
                _ => "creating",
            };
            assert_eq!(state["status"], status, "{} {name}", runtime.name);
            if status == "stopped" {
                assert!(state["pid"].is_null(), "{} {name}", runtime.name);
            } else {
                assert_eq!(state["pid"], pid, "{} {name}", runtime.name);
            }
        }
    });
}

#[test]
fn a_hook_that_fails_the_making_of_a_container_has_those_after_the_end_run() {
    with_each(|runtime| {
        for kind in ["prestart", "createRuntime"] {
            runtime.bundle_with(SLEEP, |spec| {
                spec["hooks"][kind] = json!([failing(), noting(runtime, "never")]);
                spec["hooks"]["poststop"] = json!([noting(runtime, kind)]);
            });
            let refused = runtime.fails(&["create", "c1"]);
            assert!(refused.contains("sorry"), "{}: {refused}", runtime.name);
            assert!(runtime.fails(&["state", "c1"]).contains("does not exist"));
        }
        assert_eq!(
            names(runtime),
            ["prestart", "createRuntime"],
            "{}",
            runtime.name
        );
    });
}

/// Where runc 1.1 is not as the specification has it: it fails, and runs no more.
#[test]
fn a_hook_that_fails_after_the_end_is_a_warning_and_the_next_one_runs() {
    if let Some(reason) = lacks_guest() {
        return eprintln!("skipped: {reason}");
    }
    let runtime = &Runtime::kata();
    runtime.bundle_with(SLEEP, |spec| {
        spec["hooks"]["poststop"] = json!([failing(), noting(runtime, "next")]);
    });
    runtime.ok(&["run", "-d", "c1"]);
    let deleted = runtime.run(&["delete", "--force", "c1"]);
    assert_eq!(deleted.code, Some(0), "{}", deleted.stderr);
    assert!(deleted.stderr.contains("sorry"), "{}", deleted.stderr);
    assert!(
        deleted.stderr.contains("level=warning"),
        "{}",
        deleted.stderr
    );
    assert_eq!(names(runtime), ["next"]);
}

/// And here, too.
#[test]
fn a_hook_that_fails_after_the_start_is_a_warning_and_the_next_one_runs() {
    if let Some(reason) = lacks_guest() {
        return eprintln!("skipped: {reason}");
    }
    let runtime = &Runtime::kata();
    runtime.bundle_with(SLEEP, |spec| {
        spec["hooks"]["poststart"] = json!([failing(), noting(runtime, "next")]);
    });
    let run = runtime.run(&["run", "-d", "c1"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("sorry"), "{}", run.stderr);
    assert_eq!(names(runtime), ["next"]);
    runtime.assert_status("c1", "running");
}

#[test]
fn a_hook_is_killed_when_its_time_is_over() {
    with_each(|runtime| {
        runtime.bundle_with(SLEEP, |spec| {
            spec["hooks"]["prestart"] =
                json!([{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]);
        });
        let create = runtime.run(&["create", "c1"]);
        assert_eq!(create.code, Some(1), "{}", runtime.name);
        assert_eq!(runtime.ok(&["list", "-q"]), "", "{}", runtime.name);
    });
}

#[test]
fn hooks_after_the_end_run_when_the_supervisor_was_killed() {
    if let Some(reason) = lacks_guest() {
        return eprintln!("skipped: {reason}");
    }
    let runtime = &Runtime::kata();
    runtime.bundle_with(SLEEP, |spec| {
        spec["hooks"]["poststop"] = json!([noting(runtime, "after")]);
    });
    runtime.ok(&["run", "-d", "c1"]);
    let supervisor = common::supervisor_of(runtime);
    let pid = rustix::process::Pid::from_raw(supervisor).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    runtime.wait_stopped("c1");
    runtime.ok(&["delete", "--force", "c1"]);
    assert_eq!(names(runtime), ["after"]);
}
