//! Podman with conmon drives kata-runc, as its manual page has it.
#![expect(clippy::unwrap_used, reason = "a suite ends where it fails")]

mod client;
mod common;

use std::path::Path;
use std::process::Command;

use client::Client;
use common::{has, lacks_guest};

/// Podman with its storage, state and configuration in a directory of its own.
fn podman() -> Option<Client> {
    let lacking = lacks_guest().or_else(|| {
        let installed = has("podman") && has("conmon");
        (!installed).then_some("podman is not installed")
    });
    if let Some(reason) = lacking {
        eprintln!("skipped: {reason}");
        return None;
    }
    let mut client = Client::new("podman", configure);
    client.finally(&["pod", "rm", "-f", "-a", "-t", "0"]);
    client.finally(&["rm", "-f", "-a", "-t", "0"]);
    if let Some(reason) = client.unusable(&["info"]) {
        eprintln!("skipped: podman does not work here: {reason}");
        return None;
    }
    client.ok(&["import", client.image(), "bb"]);
    Some(client)
}

fn configure(directory: &Path, runtime: &Path, command: &mut Command) {
    let at = |name: &str| directory.join(name).display().to_string();
    let configuration = format!(
        "[containers]\n\
         default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
         log_driver = \"k8s-file\"\n\
         [engine]\n\
         cgroup_manager = \"cgroupfs\"\n\
         events_logger = \"file\"\n\
         runtime = \"kata\"\n\
         [engine.runtimes]\n\
         kata = [\"{}\"]\n",
        runtime.display()
    );
    std::fs::write(directory.join("containers.conf"), configuration).unwrap();
    command.env("CONTAINERS_CONF", at("containers.conf"));
    command.args(["--storage-driver", "vfs", "--root", &at("storage")]);
    command.args(["--runroot", &at("run"), "--tmpdir", &at("tmp")]);
}

#[test]
fn podman_runs_containers() {
    let Some(podman) = podman() else { return };
    let none = ["--network", "none"];
    let run = |args: &[&str]| podman.ran(&[&["run"], &none[..], args].concat(), "");

    let ran = run(&[
        "--rm",
        "bb",
        "/bin/sh",
        "-c",
        "echo out; echo err >&2; exit 3",
    ]);
    assert_eq!(
        (ran.stdout.as_str(), ran.code),
        ("out\n", Some(3)),
        "{}",
        ran.stderr
    );
    let ran = podman.ran(
        &["run", "-i", "--rm", "--network", "none", "bb", "/bin/cat"],
        "to cat\n",
    );
    assert_eq!(ran.stdout, "to cat\n", "{}", ran.stderr);
    assert_eq!(run(&["--rm", "bb", "/nosuch"]).code, Some(127));
    assert_eq!(run(&["--rm", "bb", "/etc"]).code, Some(126));
    let tty = podman.on_a_terminal(&["run", "-t", "--rm", "--network", "none", "bb", "/bin/tty"]);
    assert!(tty.contains("/dev/pts/"), "{tty}");

    let volume = podman.directory().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let volume_arg = format!("{}:/vol", volume.display());
    let script = "echo first; trap 'echo bye; exit 0' TERM; while true; do sleep 0.1; done";
    let detached = [
        "-d",
        "--name",
        "c1",
        "-v",
        &volume_arg,
        "bb",
        "/bin/sh",
        "-c",
        script,
    ];
    podman.ok(&[&["run"], &none[..], &detached].concat());
    assert!(podman.ok(&["ps"]).contains("Up "));

    assert_eq!(
        podman.ok(&["exec", "c1", "/bin/echo", "executed"]),
        "executed\n"
    );
    assert_eq!(
        podman.ran(&["exec", "-i", "c1", "/bin/cat"], "in").stdout,
        "in"
    );
    assert_eq!(
        podman
            .ran(&["exec", "c1", "/bin/sh", "-c", "exit 9"], "")
            .code,
        Some(9)
    );
    assert_eq!(podman.ran(&["exec", "c1", "/nosuch"], "").code, Some(127));
    let tty = podman.on_a_terminal(&["exec", "-it", "c1", "/bin/tty"]);
    assert!(tty.contains("/dev/pts/"), "{tty}");

    assert!(
        podman
            .ok(&["top", "c1", "ps", "-o", "pid,args"])
            .contains("sleep")
    );
    let top = podman.ok(&["top", "c1"]);
    assert_eq!(
        top.lines().count(),
        2,
        "the host's processes are no business of it: {top}"
    );
    podman.ok(&["stats", "--no-stream", "c1"]);
    podman.ok(&["pause", "c1"]);
    assert!(podman.ok(&["ps", "-a"]).contains("Paused"));
    podman.ok(&["unpause", "c1"]);
    podman.ok(&["update", "--memory", "100m", "c1"]);

    copies(&podman, &volume);
    podman.ok(&["kill", "--signal", "WINCH", "c1"]);
    podman.ok(&["stop", "-t", "20", "c1"]);
    assert_eq!(podman.ok(&["logs", "c1"]), "first\nbye\n");
    let format = "{{.State.Status}} {{.State.ExitCode}} {{.OCIRuntime}}";
    assert_eq!(
        podman.ok(&["inspect", "--format", format, "c1"]),
        "exited 0 kata\n"
    );
    podman.ok(&["start", "c1"]);
    assert_eq!(podman.ok(&["exec", "c1", "/bin/cat", "/file"]), "copied");
    podman.ok(&["rm", "-f", "-t", "0", "c1"]);
    assert_eq!(podman.ok(&["ps", "-a", "-q"]), "");
}

/// `podman cp` goes by way of the proxy's mount namespace.
fn copies(podman: &Client, volume: &Path) {
    let here = podman.directory().join("file");
    let here = here.to_str().unwrap();
    std::fs::write(here, "copied").unwrap();
    podman.ok(&["cp", here, "c1:/file"]);
    assert_eq!(podman.ok(&["exec", "c1", "/bin/cat", "/file"]), "copied");
    assert!(
        !Path::new("/file").exists(),
        "it was copied to the host's root"
    );
    podman.ok(&["cp", here, "c1:/vol/file"]);
    assert_eq!(
        std::fs::read_to_string(volume.join("file")).unwrap(),
        "copied"
    );
    podman.ok(&["exec", "c1", "/bin/sh", "-c", "echo back > /back"]);
    let back = podman.directory().join("back");
    podman.ok(&["cp", "c1:/back", back.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(back).unwrap(), "back\n");
}

#[test]
fn containers_of_a_pod_share_a_virtual_machine() {
    let Some(podman) = podman() else { return };
    let infra = [
        "--infra-image",
        "bb",
        "--infra-command",
        "/bin/sleep 100000",
    ];
    podman.ok(&[
        &["pod", "create", "--name", "pod", "--network", "none"],
        &infra[..],
    ]
    .concat());
    podman.ok(&[
        "run",
        "-d",
        "--pod",
        "pod",
        "--name",
        "a",
        "bb",
        "/bin/sleep",
        "1000",
    ]);
    let boot = "/proc/sys/kernel/random/boot_id";
    let of_a = podman.ok(&["exec", "a", "/bin/cat", boot]);
    let of_b = podman.ok(&[
        "run", "--rm", "--pod", "pod", "--name", "b", "bb", "/bin/cat", boot,
    ]);
    assert_eq!(of_a, of_b);
    assert_ne!(of_a, std::fs::read_to_string(boot).unwrap());
    let script = "hostname; id";
    let told = podman.ok(&["run", "--rm", "--pod", "pod", "bb", "/bin/sh", "-c", script]);
    assert!(told.starts_with("pod\n"), "{told}");
    podman.ok(&["restart", "-t", "0", "a"]);
    assert_eq!(podman.ok(&["exec", "a", "/bin/cat", boot]), of_a);
    assert!(podman.ok(&["pod", "ps"]).contains("Running"));
    podman.ok(&["pod", "stop", "-t", "1", "pod"]);
    podman.ok(&["pod", "rm", "-f", "pod"]);
    assert_eq!(podman.ok(&["ps", "-a", "-q"]), "");
}
