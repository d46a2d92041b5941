//! The life of a container as the OCI runtime specification has it ("Runtime
//! and Lifecycle"), the same for runc and for kata-runc.
#![expect(clippy::unwrap_used, reason = "a suite ends where it fails")]

mod common;

use std::time::Instant;

use common::{Ran, Runtime, has, lacks_guest, ran, runtimes};
use serde_json::{Value, json};

/// Runs a story with each runtime.
fn with_each(story: impl Fn(&Runtime)) {
    if let Some(reason) = lacks_guest() {
        eprintln!("skipped: {reason}");
        return;
    }
    for runtime in runtimes() {
        story(&runtime);
    }
}

const SLEEP: &[&str] = &["/bin/sleep", "1000"];

#[test]
fn a_container_is_created_started_killed_and_deleted() {
    with_each(|runtime| {
        let bundle = runtime.bundle(SLEEP);
        let pid_file = runtime.directory.path().join("pid");
        runtime.ok(&["create", "--pid-file", pid_file.to_str().unwrap(), "c1"]);
        runtime.assert_status("c1", "created");
        let state = runtime.state("c1");
        assert_eq!(state["id"], "c1");
        assert_eq!(state["bundle"], bundle.to_str().unwrap());
        assert_eq!(state["ociVersion"], "1.0.2-dev");
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        assert_eq!(state["pid"].to_string(), pid);
        assert!(runtime.fails(&["create", "c1"]).contains("already exists"));
        runtime.ok(&["start", "c1"]);
        runtime.assert_status("c1", "running");
        assert_eq!(runtime.state("c1")["pid"].to_string(), pid);
        let again = runtime.fails(&["start", "c1"]);
        assert!(
            again.contains("cannot start an already running container"),
            "{again}"
        );
        let early = runtime.fails(&["delete", "c1"]);
        assert!(early.contains("that is not stopped: running"), "{early}");
        runtime.ok(&["kill", "c1", "KILL"]);
        runtime.wait_stopped("c1");
        assert_eq!(runtime.state("c1")["pid"], 0);
        assert!(
            runtime
                .fails(&["kill", "c1", "TERM"])
                .contains("container not running")
        );
        assert!(runtime.fails(&["start", "c1"]).contains("that has stopped"));
        assert!(
            runtime
                .fails(&["exec", "c1", "/bin/true"])
                .contains("in a stopped container")
        );
        runtime.ok(&["delete", "c1"]);
        assert!(
            runtime
                .fails(&["state", "c1"])
                .contains("container does not exist")
        );
        assert_eq!(runtime.ok(&["list", "-q"]), "");
    });
}

#[test]
fn a_created_container_can_be_killed_or_deleted_before_it_starts() {
    with_each(|runtime| {
        runtime.bundle(SLEEP);
        runtime.ok(&["create", "c1"]);
        runtime.ok(&["kill", "c1", "KILL"]);
        runtime.wait_stopped("c1");
        runtime.ok(&["delete", "c1"]);
        runtime.ok(&["create", "c2"]);
        runtime.ok(&["delete", "c2"]);
        assert!(runtime.fails(&["state", "c2"]).contains("does not exist"));
    });
}

#[test]
fn run_has_the_programs_streams_and_status() {
    with_each(|runtime| {
        let script = "cat; echo err >&2; exit 7";
        let bundle = runtime.bundle(&["/bin/sh", "-c", script]);
        let mut command = runtime.command(&["run", "c1"]);
        command.current_dir(&bundle);
        let run = ran(&command, "input\n");
        let told = (run.code, run.stdout.as_str(), run.stderr.as_str());
        assert_eq!(told, (Some(7), "input\n", "err\n"), "{}", runtime.name);
        assert_eq!(runtime.ok(&["list", "-q"]), "");
        runtime.bundle(&["/bin/false"]);
        assert_eq!(runtime.run(&["run", "--keep", "c1"]).code, Some(1));
        runtime.assert_status("c1", "stopped");
        assert!(runtime.fails(&["run", "c1"]).contains("already exists"));
        runtime.ok(&["delete", "c1"]);
    });
}

#[test]
fn exec_runs_in_the_container_as_it_is_asked_to() {
    with_each(|runtime| {
        runtime.bundle(SLEEP);
        runtime.ok(&["run", "-d", "c1"]);
        let exec = |args: &[&str]| -> Ran {
            let mut all = vec!["exec"];
            all.extend(args);
            runtime.run(&all)
        };
        assert_eq!(exec(&["c1", "/bin/sh", "-c", "exit 7"]).code, Some(7));
        assert_eq!(exec(&["c1", "/bin/sh", "-c", "kill -9 $$"]).code, Some(137));
        let id = exec(&["--user", "5:6", "-g", "7", "c1", "/bin/id"]).stdout;
        assert!(id.starts_with("uid=5 gid=6 groups="), "{id}");
        assert!(id.contains('7'), "{id}");
        let told = exec(&[
            "-e",
            "A=b",
            "--cwd",
            "/tmp",
            "c1",
            "/bin/sh",
            "-c",
            "echo $A; pwd",
        ]);
        assert_eq!(told.stdout, "b\n/tmp\n");
        for (args, words) in [
            (&["c1", "nosuch"][..], "executable file not found in $PATH"),
            (&["c1", "/nosuch"], "no such file or directory"),
            (&["c1"], "process args cannot be empty"),
            (
                &["--user", "nobody", "c1", "/bin/id"],
                "as int for uid failed",
            ),
            (
                &["-d", "-t", "c1", "/bin/true"],
                "without setting console socket",
            ),
            (
                &["--console-socket", "/x", "c1", "/bin/true"],
                "cannot use console socket",
            ),
            (
                &["-p", "/nonexistent", "c1"],
                "open /nonexistent: no such file",
            ),
        ] {
            let ran = exec(args);
            assert!(
                ran.stderr.contains(words),
                "{} {args:?}: {}",
                runtime.name,
                ran.stderr
            );
            assert_eq!(ran.code, Some(255), "{} {args:?}", runtime.name);
        }
        let process = runtime.directory.path().join("process.json");
        let json = json!({
            "args": ["/bin/sh", "-c", "echo $B"], "cwd": "/", "env": ["B=c"],
            "user": {"uid": 0, "gid": 0},
        });
        std::fs::write(&process, json.to_string()).unwrap();
        assert_eq!(exec(&["-p", process.to_str().unwrap(), "c1"]).stdout, "c\n");
        let pid_file = runtime.directory.path().join("exec-pid");
        let path = pid_file.to_str().unwrap();
        assert_eq!(
            exec(&["-d", "--pid-file", path, "c1", "/bin/sleep", "1000"]).code,
            Some(0)
        );
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        assert!(std::path::Path::new("/proc").join(&pid).exists());
        runtime.ok(&["delete", "--force", "c1"]);
        assert!(runtime.fails(&["state", "c1"]).contains("does not exist"));
    });
}

#[test]
fn a_paused_container_stands_still_until_it_is_resumed() {
    with_each(|runtime| {
        runtime.bundle(SLEEP);
        runtime.ok(&["run", "-d", "c1"]);
        assert!(
            runtime
                .fails(&["resume", "c1"])
                .contains("container not paused")
        );
        runtime.ok(&["pause", "c1"]);
        runtime.assert_status("c1", "paused");
        assert!(
            runtime
                .fails(&["pause", "c1"])
                .contains("container not running")
        );
        let refused = runtime.fails(&["exec", "c1", "/bin/true"]);
        assert!(
            refused.contains("cannot exec in a paused container"),
            "{refused}"
        );
        assert!(
            runtime
                .fails(&["delete", "c1"])
                .contains("that is not stopped: paused")
        );
        runtime.ok(&["resume", "c1"]);
        runtime.assert_status("c1", "running");
        runtime.ok(&["exec", "c1", "/bin/true"]);
        runtime.ok(&["pause", "c1"]);
        runtime.ok(&["delete", "--force", "c1"]);
    });
}

#[test]
fn list_ps_events_and_update_answer_in_runcs_forms() {
    with_each(|runtime| {
        let bundle = runtime.bundle(SLEEP);
        runtime.ok(&["run", "-d", "c1"]);
        // runc answers before its program has taken the place of runc.
        let script = "until grep -q sleep /proc/1/cmdline; do sleep 0.1; done";
        runtime.ok(&["exec", "c1", "/bin/sh", "-c", script]);
        let table = runtime.ok(&["list"]);
        let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(
            (row[0], row[2], row[5]),
            ("c1", "running", "root"),
            "{table}"
        );
        assert_eq!(row[3], bundle.to_str().unwrap());
        let json: Value = serde_json::from_str(&runtime.ok(&["list", "-f", "json"])).unwrap();
        assert_eq!(json[0]["status"], "running");
        let pids: Vec<u32> =
            serde_json::from_str(&runtime.ok(&["ps", "-f", "json", "c1"])).unwrap();
        assert_eq!(pids.len(), 1, "{}", runtime.name);
        let table = runtime.ok(&["ps", "c1"]);
        let mut lines = table.lines();
        let head: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(
            head,
            ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        );
        assert!(
            lines.next().unwrap().ends_with("/bin/sleep 1000"),
            "{table}"
        );
        let line = runtime.ok(&["events", "--stats", "c1"]);
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&event["type"], &event["id"]),
            (&json!("stats"), &json!("c1"))
        );
        assert!(event["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
        assert!(event["data"]["memory"]["usage"]["usage"].as_u64().unwrap() > 0);
        assert!(event["data"]["pids"]["current"].as_u64().unwrap() >= 1);
        runtime.ok(&["update", "--memory", "50m", "--pids-limit", "20", "c1"]);
        let line = runtime.ok(&["events", "--stats", "c1"]);
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["data"]["memory"]["usage"]["limit"], 50 << 20);
        let wrong = runtime.fails(&["update", "--memory", "abc", "c1"]);
        assert!(wrong.contains("invalid size: 'abc'"), "{wrong}");
        for (signal, words) in [("NONSENSE", "unknown signal"), ("99", "invalid argument")] {
            let wrong = runtime.fails(&["kill", "c1", signal]);
            assert!(wrong.contains(words), "{} {signal}: {wrong}", runtime.name);
        }
        runtime.ok(&["kill", "c1", "0"]);
        runtime.ok(&["kill", "--all", "c1", "sigkill"]);
        runtime.wait_stopped("c1");
        let stopped = runtime.fails(&["events", "--stats", "c1"]);
        assert!(
            stopped.contains("container with id c1 is not running"),
            "{stopped}"
        );
    });
}

#[test]
fn what_makes_no_container_leaves_nothing() {
    with_each(|runtime| {
        type Edit = fn(&mut Value);
        let edits: [(&str, Edit); 7] = [
            ("process property must not be empty", |spec| {
                spec.as_object_mut().unwrap().remove("process");
            }),
            ("args must not be empty", |spec| {
                spec["process"]["args"] = json!([]);
            }),
            ("Cwd property must not be empty", |spec| {
                spec["process"]["cwd"] = json!("");
            }),
            ("Cwd must be an absolute path", |spec| {
                spec["process"]["cwd"] = json!("x");
            }),
            ("no such file or directory", |spec| {
                spec["process"]["args"] = json!(["/nosuch"]);
            }),
            ("executable file not found in $PATH", |spec| {
                spec["process"]["args"] = json!(["nosuch"]);
            }),
            ("without setting console socket", |spec| {
                spec["process"]["terminal"] = json!(true);
            }),
        ];
        for (words, edit) in edits {
            runtime.bundle_with(&["/bin/true"], edit);
            let ran = runtime.run(&["create", "c1"]);
            let name = runtime.name;
            assert!(
                ran.stderr.contains(words),
                "{name}: {words}: {}",
                ran.stderr
            );
            assert_eq!(ran.code, Some(1));
            assert!(
                runtime.fails(&["state", "c1"]).contains("does not exist"),
                "{words}"
            );
        }
        let bundle = runtime.bundle(&["/bin/true"]);
        let socket = runtime.fails(&["create", "--console-socket", "/x", "c1"]);
        assert!(socket.contains("cannot use console socket"), "{socket}");
        let file = runtime.fails(&["create", "--pid-file", "/nonexistent/pid", "c1"]);
        assert!(file.contains("no such file or directory"), "{file}");
        std::fs::write(bundle.join("config.json"), "{").unwrap();
        runtime.fails(&["create", "c1"]);
        assert_eq!(runtime.ok(&["list", "-q"]), "", "{}", runtime.name);
    });
}

#[test]
fn a_new_specification_runs_in_a_root_that_has_nothing_but_a_program() {
    with_each(|runtime| {
        let bundle = runtime.bundle_with(&["cat", "/proc/self/mounts"], |spec| {
            spec["root"] = json!({"path": "bare", "readonly": true});
        });
        let bare = bundle.join("bare");
        std::fs::create_dir_all(bare.join("bin")).unwrap();
        std::fs::copy(common::busybox(), bare.join("bin/cat")).unwrap();
        let mounts = runtime.ok(&["run", "c1"]);
        assert!(mounts.contains(" /dev/pts "), "{}: {mounts}", runtime.name);
    });
}

#[test]
fn a_container_whose_supervisor_is_killed_is_stopped_and_can_be_deleted() {
    if let Some(reason) = lacks_guest() {
        return eprintln!("skipped: {reason}");
    }
    let runtime = Runtime::kata();
    runtime.bundle(SLEEP);
    runtime.ok(&["run", "-d", "c1"]);
    let supervisor = common::supervisor_of(&runtime);
    let pid = rustix::process::Pid::from_raw(supervisor).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    runtime.wait_stopped("c1");
    assert!(
        runtime
            .fails(&["kill", "c1"])
            .contains("container not running")
    );
    runtime.ok(&["delete", "--force", "c1"]);
    assert_eq!(runtime.ok(&["list", "-q"]), "");
    runtime.bundle(&["/bin/true"]);
    runtime.ok(&["run", "c1"]);
}

#[test]
fn concurrent_commands_on_one_container_make_one_of_them_the_first() {
    if let Some(reason) = lacks_guest() {
        return eprintln!("skipped: {reason}");
    }
    // Not with runc, whose second start waits for ever for a pipe to open.
    let runtime = &Runtime::kata();
    runtime.bundle(SLEEP);
    let codes = at_once(runtime, &["create", "c1"]);
    assert_eq!(
        codes.iter().filter(|code| **code == Some(0)).count(),
        1,
        "{codes:?}"
    );
    let codes = at_once(runtime, &["start", "c1"]);
    assert_eq!(
        codes.iter().filter(|code| **code == Some(0)).count(),
        1,
        "{codes:?}"
    );
    runtime.assert_status("c1", "running");
    let codes = at_once(runtime, &["delete", "--force", "c1"]);
    assert!(codes.contains(&Some(0)), "{codes:?}");
    assert!(runtime.fails(&["state", "c1"]).contains("does not exist"));
}

fn at_once(runtime: &Runtime, args: &[&str]) -> Vec<Option<i32>> {
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| runtime.run(args).code))
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

#[test]
fn figures_beside_runcs() {
    if let Some(reason) = lacks_guest() {
        return eprintln!("skipped: {reason}");
    }
    if !has("runc") {
        return eprintln!("skipped: runc is not installed");
    }
    let measured: Vec<[f64; 4]> = runtimes().iter().map(measure).collect();
    for (at, what) in ["run of true", "exec of true", "state", "kill 0"]
        .iter()
        .enumerate()
    {
        let (runc, kata) = (measured[0][at], measured[1][at]);
        println!(
            "{what}: runc {runc:.0} ms, kata-runc {kata:.0} ms, ratio {:.1}",
            kata / runc
        );
    }
}

/// Milliseconds, each the median of five.
fn measure(runtime: &Runtime) -> [f64; 4] {
    let median = |args: &[&str]| {
        let mut all: Vec<f64> = (0..5)
            .map(|_| {
                let began = Instant::now();
                assert_eq!(runtime.run(args).code, Some(0), "{} {args:?}", runtime.name);
                began.elapsed().as_secs_f64() * 1000.0
            })
            .collect();
        all.sort_by(f64::total_cmp);
        all[2]
    };
    runtime.bundle(&["/bin/true"]);
    let run = median(&["run", "r1"]);
    runtime.bundle(SLEEP);
    runtime.ok(&["run", "-d", "c1"]);
    let exec = median(&["exec", "c1", "/bin/true"]);
    let state = median(&["state", "c1"]);
    let kill = median(&["kill", "c1", "0"]);
    runtime.ok(&["delete", "-f", "c1"]);
    [run, exec, state, kill]
}
