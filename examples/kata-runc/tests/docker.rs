//! Docker's engine drives kata-runc, which it knows by `--add-runtime`.

mod client;
mod common;

use std::path::Path;
use std::process::Command;

use client::{Client, apart};
use common::{has, lacks_guest};

/// Docker's engine, and what `docker` has for it.
fn docker() -> Option<Client> {
    let lacking = lacks_guest().or_else(|| {
        let installed = has("dockerd") && has("docker");
        (!installed).then_some("Docker's engine is not installed")
    });
    if let Some(reason) = lacking {
        eprintln!("skipped: {reason}");
        return None;
    }
    let mut client = Client::new("docker", |directory, _, command| {
        command.args(["--host", &socket(directory)]);
    });
    let daemon = daemon(client.directory(), &client.runtime());
    if let Some(reason) = client.start_daemon(daemon, "d.sock", &["version"]) {
        eprintln!("skipped: Docker's engine does not work here: {reason}");
        return None;
    }
    client.ok(&["import", client.image(), "bb"]);
    Some(client)
}

fn socket(directory: &Path) -> String {
    format!("unix://{}/d.sock", directory.display())
}

fn daemon(directory: &Path, runtime: &Path) -> Command {
    let at = |name: &str| directory.join(name).display().to_string();
    // In a network namespace of its own: its bridge is not the host's.
    let mut daemon = apart("dockerd");
    daemon.args(["--host", &socket(directory), "--pidfile", &at("pid")]);
    daemon.args(["--data-root", &at("data"), "--exec-root", &at("exec")]);
    daemon.args([
        "--bip",
        "10.79.0.1/24",
        "--iptables=false",
        "--ip6tables=false",
    ]);
    daemon.args(["--storage-driver", "vfs", "--oom-score-adjust", "0"]);
    daemon.args(["--exec-opt", "native.cgroupdriver=cgroupfs"]);
    daemon.args(["--default-ulimit", "nofile=1024:1024"]);
    daemon.args(["--add-runtime", &format!("kata={}", runtime.display())]);
    daemon
}

#[test]
fn docker_runs_containers() {
    let Some(docker) = docker() else { return };
    let kata = ["--runtime", "kata", "--network", "none"];
    let run = |args: &[&str], input: &str| docker.ran(&[&["run"], &kata[..], args].concat(), input);

    let ran = run(
        &[
            "--rm",
            "bb",
            "/bin/sh",
            "-c",
            "echo out; echo err >&2; exit 3",
        ],
        "",
    );
    assert_eq!(
        (ran.stdout.as_str(), ran.code),
        ("out\n", Some(3)),
        "{}",
        ran.stderr
    );
    let ran = run(&["-i", "--rm", "bb", "/bin/cat"], "to cat\n");
    assert_eq!(ran.stdout, "to cat\n", "{}", ran.stderr);
    assert_eq!(run(&["--rm", "bb", "/nosuch"], "").code, Some(127));
    let terminal = [&["run", "-t", "--rm"], &kata[..], &["bb", "/bin/tty"]].concat();
    assert!(docker.on_a_terminal(&terminal).contains("/dev/pts/"));

    let script = "echo first; trap 'echo bye; exit 5' TERM; while true; do sleep 0.1; done";
    let ran = run(&["-d", "--name", "c1", "bb", "/bin/sh", "-c", script], "");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(docker.ok(&["exec", "c1", "/bin/echo", "in"]), "in\n");
    assert_eq!(
        docker.ran(&["exec", "-i", "c1", "/bin/cat"], "in").stdout,
        "in"
    );
    assert_eq!(
        docker
            .ran(&["exec", "c1", "/bin/sh", "-c", "exit 4"], "")
            .code,
        Some(4)
    );
    assert_ne!(docker.ran(&["exec", "c1", "/nosuch"], "").code, Some(0));
    let format = "{{.State.Status}} {{.HostConfig.Runtime}}";
    assert_eq!(
        docker.ok(&["inspect", "-f", format, "c1"]),
        "running kata\n"
    );
    docker.ok(&["stats", "--no-stream", "c1"]);
    docker.ok(&["pause", "c1"]);
    docker.ok(&["unpause", "c1"]);
    docker.ok(&["update", "--memory", "100m", "--memory-swap", "200m", "c1"]);
    let file = docker.directory().join("file");
    std::fs::write(&file, "copied").unwrap();
    docker.ok(&["cp", file.to_str().unwrap(), "c1:/file"]);
    assert_eq!(docker.ok(&["exec", "c1", "/bin/cat", "/file"]), "copied");

    let attached = std::thread::scope(|scope| {
        let attached = scope.spawn(|| docker.ran(&["attach", "--no-stdin", "c1"], ""));
        docker.ok(&["stop", "-t", "20", "c1"]);
        attached.join().unwrap()
    });
    // Attached or too late, which is told apart by its words.
    let late = attached.stderr.contains("stopped container");
    assert!(late || attached.code == Some(5), "{attached:?}");
    assert_eq!(docker.ok(&["logs", "c1"]), "first\nbye\n");
    let format = "{{.State.Status}} {{.State.ExitCode}}";
    assert_eq!(docker.ok(&["inspect", "-f", format, "c1"]), "exited 5\n");
    docker.ok(&["restart", "c1"]);
    assert_eq!(docker.ok(&["exec", "c1", "/bin/cat", "/file"]), "copied");
    docker.ok(&["kill", "c1"]);
    assert_eq!(docker.ok(&["wait", "c1"]), "137\n");
    docker.ok(&["rm", "-f", "c1"]);
    bridge(&docker);
    assert_eq!(docker.ok(&["ps", "-a", "-q"]), "");
}

/// Docker's bridge, which a hook connects a container's namespace to.
fn bridge(docker: &Client) {
    let serve = "while true; do echo hello | nc -l -p 80; done";
    let kata = ["--runtime", "kata"];
    let detached = ["-d", "--name", "web", "bb", "/bin/sh", "-c", serve];
    docker.ok(&[&["run"], &kata[..], &detached].concat());
    let format = "{{.NetworkSettings.IPAddress}}";
    let address = docker.ok(&["inspect", "-f", format, "web"]);
    let ask = ["--rm", "bb", "/bin/nc", "-w", "20", address.trim(), "80"];
    assert_eq!(docker.ok(&[&["run"], &kata[..], &ask].concat()), "hello\n");
    docker.ok(&["rm", "-f", "web"]);
}
