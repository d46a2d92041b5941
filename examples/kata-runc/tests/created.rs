//! A container before its program is started, and when what stands for it on the
//! host is killed: the same for runc and for kata-runc.
#![expect(clippy::unwrap_used, reason = "a suite ends where it fails")]

mod common;

use std::os::unix::net::UnixListener;
use std::process::Command;

use common::{Runtime, lacks_guest, ran, runtimes};
use serde_json::json;

const SLEEP: &[&str] = &["/bin/sleep", "1000"];

/// Runs a story with each runtime.
fn with_each(story: impl Fn(&Runtime)) {
    if let Some(reason) = lacks_guest() {
        return eprintln!("skipped: {reason}");
    }
    for runtime in runtimes() {
        story(&runtime);
    }
}

#[test]
fn a_created_container_takes_processes_and_stands_still() {
    with_each(|runtime| {
        runtime.bundle(&["/bin/sh", "-c", "touch /tmp/ran; exec sleep 1000"]);
        runtime.ok(&["create", "c1"]);
        let script = "echo early; ls /tmp; exit 5";
        let early = runtime.run(&["exec", "c1", "/bin/sh", "-c", script]);
        let told = (early.stdout.as_str(), early.code);
        assert_eq!(
            told,
            ("early\n", Some(5)),
            "{}: {}",
            runtime.name,
            early.stderr
        );
        runtime.assert_status("c1", "created");
        runtime.ok(&["pause", "c1"]);
        runtime.assert_status("c1", "paused");
        let refused = runtime.fails(&["start", "c1"]);
        assert!(
            refused.contains("in the paused state"),
            "{}: {refused}",
            runtime.name
        );
        runtime.ok(&["resume", "c1"]);
        runtime.assert_status("c1", "created");
        runtime.ok(&["start", "c1"]);
        runtime.assert_status("c1", "running");
        let wait = "until test -e /tmp/ran; do sleep 0.1; done";
        runtime.ok(&["exec", "c1", "/bin/sh", "-c", wait]);
        runtime.ok(&["delete", "--force", "c1"]);
    });
}

#[test]
fn a_paused_container_that_was_not_started_can_be_killed_and_deleted() {
    with_each(|runtime| {
        runtime.bundle(SLEEP);
        runtime.ok(&["create", "c1"]);
        runtime.ok(&["pause", "c1"]);
        runtime.ok(&["delete", "--force", "c1"]);
        assert!(runtime.fails(&["state", "c1"]).contains("does not exist"));
    });
}

/// Kills a process of the host and waits for its end.
fn kill(pid: i32) {
    let process = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    common::wait_for_end(pid, deadline);
}

fn pid_of(runtime: &Runtime, id: &str) -> i32 {
    i32::try_from(runtime.state(id)["pid"].as_i64().unwrap()).unwrap()
}

#[test]
fn a_container_whose_process_is_killed_by_its_id_is_stopped() {
    with_each(|runtime| {
        runtime.bundle(SLEEP);
        for started in [false, true] {
            runtime.ok(&["create", "c1"]);
            if started {
                runtime.ok(&["start", "c1"]);
            }
            kill(pid_of(runtime, "c1"));
            runtime.assert_status("c1", "stopped");
            runtime.ok(&["delete", "c1"]);
        }
    });
}

#[test]
fn what_a_killed_proxy_stood_for_ends_in_the_guest() {
    if let Some(reason) = lacks_guest() {
        return eprintln!("skipped: {reason}");
    }
    let runtime = Runtime::kata();
    runtime.bundle(SLEEP);
    runtime.ok(&["run", "-d", "pod"]);
    let first = pid_of(&runtime, "pod");
    runtime.bundle_with(&["/bin/sleep", "7777"], |spec| {
        spec["annotations"] = json!({
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": "pod",
        });
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        let pid = namespaces.iter_mut().find(|one| one["type"] == "pid");
        pid.unwrap()["path"] = json!(format!("/proc/{first}/ns/pid"));
    });
    runtime.ok(&["run", "-d", "c2"]);
    let pid_file = runtime.directory.path().join("exec-pid");
    let path = pid_file.to_str().unwrap();
    let exec = [
        "exec",
        "-d",
        "--pid-file",
        path,
        "pod",
        "/bin/sleep",
        "8888",
    ];
    runtime.ok(&exec);
    // They share their process ids.
    let processes = runtime.ok(&["exec", "pod", "/bin/ps"]);
    assert!(processes.contains("sleep 7777"), "{processes}");
    let ends = |seconds: &str| {
        let script = format!("while ps | grep -q 'sleep {seconds}[{seconds}]'; do sleep 0.1; done");
        runtime.ok(&["exec", "pod", "/bin/sh", "-c", &script]);
    };
    kill(pid_of(&runtime, "c2"));
    ends("777");
    runtime.assert_status("c2", "stopped");
    kill(std::fs::read_to_string(&pid_file).unwrap().parse().unwrap());
    ends("888");
    runtime.assert_status("pod", "running");
    runtime.ok(&["delete", "c2"]);
    runtime.ok(&["delete", "--force", "pod"]);
}

#[test]
fn a_console_socket_that_closes_leaves_no_container() {
    with_each(|runtime| {
        runtime.bundle_with(SLEEP, |spec| spec["process"]["terminal"] = json!(true));
        let path = runtime.directory.path().join("console");
        let listener = UnixListener::bind(&path).unwrap();
        let closing = std::thread::spawn(move || drop(listener.accept().unwrap()));
        runtime.fails(&["create", "--console-socket", path.to_str().unwrap(), "c1"]);
        closing.join().unwrap();
        assert_eq!(runtime.ok(&["list", "-q"]), "", "{}", runtime.name);
    });
}

#[test]
fn descriptors_that_the_caller_forgot_are_not_held() {
    with_each(|runtime| {
        let bundle = runtime.bundle(SLEEP);
        let stray = runtime.directory.path().join("stray");
        std::fs::write(&stray, "").unwrap();
        let create = runtime.command(&["create", "c1"]);
        let mut shell = Command::new("sh");
        let script = format!("exec 9<'{}'; exec \"$@\"", stray.display());
        shell.args(["-c", &script, "sh"]);
        shell.arg(create.get_program()).args(create.get_args());
        shell.current_dir(bundle);
        let created = ran(&shell, "");
        assert_eq!(created.code, Some(0), "{}", created.stderr);
        let open = std::fs::read_dir(format!("/proc/{}/fd", pid_of(runtime, "c1"))).unwrap();
        for descriptor in open.flatten() {
            let target = std::fs::read_link(descriptor.path()).unwrap_or_default();
            assert_ne!(target, stray, "{}", runtime.name);
        }
        runtime.ok(&["delete", "--force", "c1"]);
    });
}

#[test]
fn from_outside_a_container_has_its_own_root_pivoted_or_not() {
    with_each(|runtime| {
        runtime.bundle(SLEEP);
        for flags in [&[][..], &["--no-pivot"]] {
            runtime.ok(&[&["create"], flags, &["c1"]].concat());
            let pid = pid_of(runtime, "c1");
            let root = |path: &str| std::path::PathBuf::from(format!("/proc/{pid}/root{path}"));
            assert!(root("/bin/busybox").exists(), "{} {flags:?}", runtime.name);
            let outside = runtime.directory.path().to_str().unwrap();
            assert!(!root(outside).exists(), "{} {flags:?}", runtime.name);
            runtime.ok(&["delete", "--force", "c1"]);
        }
    });
}

#[test]
fn real_time_signals_reach_the_program() {
    with_each(|runtime| {
        let script = "trap 'exit 3' 35; touch /tmp/ready; while true; do sleep 0.1; done";
        let bundle = runtime.bundle(&["/bin/sh", "-c", script]);
        let ready = bundle.join("rootfs/tmp/ready");
        let _ = std::fs::remove_file(&ready);
        let mut run = runtime.command(&["run", "c1"]);
        let mut run = run.current_dir(&bundle).spawn().unwrap();
        let wait = "until test -e /tmp/ready; do sleep 0.1; done";
        while runtime.run(&["exec", "c1", "/bin/sh", "-c", wait]).code != Some(0) {}
        runtime.ok(&["kill", "c1", "35"]);
        assert_eq!(run.wait().unwrap().code(), Some(3), "{}", runtime.name);
    });
}

#[test]
fn systemds_groups_need_a_systemd_that_runs() {
    if std::path::Path::new("/run/systemd/system").exists() {
        return eprintln!("skipped: systemd runs here");
    }
    with_each(|runtime| {
        runtime.bundle_with(SLEEP, |spec| {
            spec["linux"]["cgroupsPath"] = json!("system.slice:kata:c1");
        });
        let refused = runtime.fails(&["--systemd-cgroup", "create", "c1"]);
        assert!(
            refused.contains("systemd not running on this host"),
            "{refused}"
        );
        assert_eq!(runtime.ok(&["list", "-q"]), "", "{}", runtime.name);
    });
}

#[test]
fn a_capability_that_nothing_knows_is_warned_of() {
    with_each(|runtime| {
        runtime.bundle_with(&["/bin/true"], |spec| {
            let set = spec["process"]["capabilities"]["bounding"].as_array_mut();
            set.unwrap().push(json!("CAP_TEST"));
        });
        let run = runtime.run(&["run", "c1"]);
        assert_eq!(run.code, Some(0), "{}: {}", runtime.name, run.stderr);
        assert!(
            run.stderr.contains("CAP_TEST"),
            "{}: {}",
            runtime.name,
            run.stderr
        );
    });
}

#[test]
fn processors_are_the_hosts() {
    with_each(|runtime| {
        runtime.bundle_with(SLEEP, |spec| {
            spec["linux"]["resources"]["cpu"] = json!({"cpus": "0", "mems": "0"});
        });
        runtime.ok(&["run", "-d", "c1"]);
        let status = format!("/proc/{}/status", pid_of(runtime, "c1"));
        let status = std::fs::read_to_string(status).unwrap();
        let allowed = |line: &&str| line.starts_with("Cpus_allowed_list:");
        let allowed = status.lines().find(allowed).unwrap();
        assert!(allowed.ends_with("\t0"), "{}: {allowed}", runtime.name);
        runtime.ok(&["delete", "--force", "c1"]);
    });
    if let Some(reason) = lacks_guest() {
        return eprintln!("skipped: {reason}");
    }
    // Those that the guest has none of.
    let runtime = Runtime::kata();
    let last = std::thread::available_parallelism().unwrap().get() - 1;
    runtime.bundle_with(&["/bin/true"], |spec| {
        spec["linux"]["resources"]["cpu"] = json!({"cpus": format!("{last}")});
    });
    runtime.ok(&["run", "c1"]);
}
