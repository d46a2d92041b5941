//! containerd with its runc shim drives kata-runc, through `ctr`.
#![expect(clippy::unwrap_used, reason = "a suite ends where it fails")]

mod client;
mod common;

use std::path::Path;
use std::process::Command;

use client::{Client, hidden, image};
use common::{has, lacks_guest};

/// containerd, and what `ctr` has for it.
fn containerd() -> Option<Client> {
    let lacking = lacks_guest().or_else(|| {
        let installed = has("containerd") && has("ctr") && has("containerd-shim-runc-v2");
        (!installed).then_some("containerd is not installed")
    });
    if let Some(reason) = lacking {
        eprintln!("skipped: {reason}");
        return None;
    }
    let mut client = Client::new("ctr", configure);
    let mut daemon = hidden("containerd");
    daemon.arg("-c").arg(client.directory().join("config.toml"));
    if let Some(reason) = client.start_daemon(daemon, "c.sock", &["version"]) {
        eprintln!("skipped: containerd does not work here: {reason}");
        return None;
    }
    client.finally(&["task", "delete", "--force", "t3"]);
    let image = image::archive(client.directory(), "bb", &["/bin/sh"]);
    client.ok(&["image", "import", "--snapshotter", "native", &image]);
    Some(client)
}

fn configure(directory: &Path, _: &Path, command: &mut Command) {
    let at = |name: &str| directory.join(name).display().to_string();
    let configuration = format!(
        "version = 2\n\
         root = \"{}\"\n\
         state = \"{}\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\n\
         address = \"{}\"\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\n\
         path = \"{}\"\n",
        at("root"),
        at("state"),
        at("c.sock"),
        at("opt"),
    );
    std::fs::write(directory.join("config.toml"), configuration).unwrap();
    command.args(["--address", &at("c.sock")]);
}

#[test]
fn containerd_runs_tasks() {
    let Some(ctr) = containerd() else { return };
    let runtime = ctr.runtime().display().to_string();
    let settings = ["--snapshotter", "native", "--runc-binary", &runtime];
    let image = "localhost/bb:latest";
    let run = |flags: &[&str], id: &str, args: &[&str]| {
        ctr.ran(
            &[&["run"], flags, &settings[..], &[image, id], args].concat(),
            "",
        )
    };

    let ran = run(&["--rm"], "t1", &["/bin/sh", "-c", "echo out; exit 3"]);
    assert_eq!(
        (ran.stdout.as_str(), ran.code),
        ("out\n", Some(3)),
        "{}",
        ran.stderr
    );
    let ran = run(&["--rm"], "t1", &["/nosuch"]);
    assert!(
        ran.stderr.contains("no such file or directory"),
        "{}",
        ran.stderr
    );
    let terminal = [
        &["run", "-t", "--rm"],
        &settings[..],
        &[image, "t2", "/bin/tty"],
    ]
    .concat();
    assert!(ctr.on_a_terminal(&terminal).contains("/dev/pts/"));

    let ran = run(&["-d"], "t3", &["/bin/sleep", "1000"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ctr.ok(&["task", "ls"]).contains("RUNNING"));
    assert_eq!(ctr.ok(&["task", "ps", "t3"]).lines().count(), 2);
    assert!(
        ctr.ok(&["task", "metrics", "t3"])
            .contains("memory.usage_in_bytes")
    );
    let exec = [
        "task",
        "exec",
        "--exec-id",
        "e1",
        "t3",
        "/bin/sh",
        "-c",
        "echo in; exit 4",
    ];
    let ran = ctr.ran(&exec, "");
    assert_eq!(
        (ran.stdout.as_str(), ran.code),
        ("in\n", Some(4)),
        "{}",
        ran.stderr
    );
    ctr.ok(&["task", "pause", "t3"]);
    assert!(ctr.ok(&["task", "ls"]).contains("PAUSED"));
    ctr.ok(&["task", "resume", "t3"]);
    assert!(ctr.ok(&["task", "ls"]).contains("RUNNING"));
    let before = ctr.ok(&["task", "ls"]);
    let pid = before
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap();
    ctr.ok(&["task", "kill", "-s", "KILL", "t3"]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    common::wait_for_end(pid.parse().unwrap(), deadline);
    let deleted = ctr.ran(&["task", "delete", "t3"], "");
    assert!(deleted.stderr.contains("137"), "{}", deleted.stderr);
    ctr.ok(&["container", "rm", "t3"]);
    assert_eq!(ctr.ok(&["task", "ls", "-q"]), "");
}
