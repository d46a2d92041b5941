//! Hosts that lack things, and input that makes no sense: each is a typed error
//! that says what, on what, when and what helps, and nothing is left behind.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::fake::{self, Fault};
use common::{Host, leftovers::Census};
use kata_sandbox::hypervisor::qemu::Qemu;
use kata_sandbox::{
    ContainerSpec, Error, ErrorKind, MemorySize, Mount, Rootfs, Runtime, Sandbox, SandboxExit,
    SandboxState,
};

fn directory() -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("kata").tempdir_in("/tmp").unwrap()
}

/// Checks what every error has to say, and shows it to who reads along.
fn says(error: &Error, kind: ErrorKind, operation: &str, parts: &[&str]) {
    let text = format!("{error:#}");
    eprintln!("{text}");
    assert_eq!(
        (error.kind(), error.operation()),
        (kind, operation),
        "{error:?}"
    );
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// Runs the test of that name in a mount namespace of its own, after a script;
/// answers whether this is that run already, or whether it cannot be.
fn in_own_mounts(test: &str, script: &str) -> Option<PathBuf> {
    const HERE: &str = "KATA_TEST_OWN_MOUNTS";
    if let Some(directory) = std::env::var_os(HERE) {
        return Some(directory.into());
    }
    let can = Command::new("unshare").args(["-m", "true"]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no mount namespace of its own (root and unshare are needed)");
        return None;
    }
    let directory = directory();
    let run = format!(
        "set -e; cd {}\n{script}\nexec \"$@\"",
        directory.path().display()
    );
    let status = Command::new("unshare")
        .args(["-m", "sh", "-c", &run, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(HERE, directory.path())
        .status();
    assert!(status.unwrap().success());
    None
}

async fn start(state: &Path, directory: &Path, fault: Fault) -> Result<Sandbox, Error> {
    let builder = fake::runtime(directory, fault).state_dir(state);
    builder.build()?.sandbox("full").start().await
}

#[tokio::test]
async fn a_full_state_directory_is_told_and_nothing_stays() {
    let script = "for n in 2 3 4 5 6 7 8 9 10 11; do
        mkdir $n; mount -t tmpfs -o size=64k,nr_inodes=$n none $n; done
        mkdir blocks readonly
        mount -t tmpfs -o size=4k none blocks; echo taken > blocks/taken
        mount -t tmpfs -o ro none readonly";
    let test = "a_full_state_directory_is_told_and_nothing_stays";
    let Some(mounts) = in_own_mounts(test, script) else {
        return;
    };
    let directory = directory();
    let mut full = 0;
    let places = (2..=11).map(|inodes| inodes.to_string());
    for place in places.chain(["blocks".to_owned()]) {
        let state = mounts.join(&place).join("s");
        let error = start(&state, directory.path(), Fault::NoMachine)
            .await
            .unwrap_err();
        if error.kind() != ErrorKind::HostNotCapable {
            says(
                &error,
                ErrorKind::Resource,
                "start sandbox",
                &["full", "free some space"],
            );
            assert_eq!(error.phase(), Some("journal"));
            full += 1;
        }
        let left = std::fs::read_dir(&state).into_iter().flatten().flatten();
        let left: Vec<_> = left.filter(|entry| entry.file_name() != ".lock").collect();
        assert!(left.is_empty(), "{place}: {left:?}");
    }
    assert!((4..10).contains(&full), "{full}");
    let state = mounts.join("readonly/s");
    let error = start(&state, directory.path(), Fault::None)
        .await
        .unwrap_err();
    says(
        &error,
        ErrorKind::Denied,
        "start sandbox",
        &["readonly/s", "can be written to"],
    );
}

#[tokio::test]
async fn a_state_directory_that_is_a_file_is_refused_at_once() {
    let directory = directory();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    for state in [file.clone(), file.join("below")] {
        let error = start(&state, directory.path(), Fault::None)
            .await
            .unwrap_err();
        let shown = state.display().to_string();
        says(
            &error,
            ErrorKind::InvalidConfig,
            "build runtime",
            &[&shown, "is a file"],
        );
        assert!(error.remedy().is_some());
    }
}

#[tokio::test]
async fn a_missing_qemu_says_what_to_install() {
    let Some(host) = Host::new() else { return };
    let builder = host
        .builder()
        .hypervisor(Qemu::new().binary("/no/such/qemu"));
    let runtime = builder.build().unwrap();
    let error = runtime.sandbox("s").start().await.unwrap_err();
    says(
        &error,
        ErrorKind::HostNotCapable,
        "start sandbox",
        &["/no/such/qemu", "install"],
    );
    assert_eq!(
        (error.target(), error.phase()),
        ("s", Some("create machine"))
    );
}

#[tokio::test]
async fn a_machine_that_cannot_grow_is_not_started_as_if_it_could() {
    let directory = directory();
    let runtime = fake::runtime(directory.path(), Fault::None)
        .build()
        .unwrap();
    let builder = runtime.sandbox("s").max_memory(MemorySize::gib(1));
    let error = builder.start().await.unwrap_err();
    says(
        &error,
        ErrorKind::Unsupported,
        "start sandbox",
        &["fake cannot resize", "max_memory", "final size"],
    );
}

#[tokio::test]
async fn an_image_for_another_machine_is_refused() {
    let directory = directory();
    let builder = fake::runtime(directory.path(), Fault::None);
    let manifest = directory.path().join("image/manifest.json");
    let json = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, json.replace(std::env::consts::ARCH, "vax")).unwrap();
    let error = builder.build().unwrap().sandbox("s").plan().unwrap_err();
    says(
        &error,
        ErrorKind::Unsupported,
        "plan sandbox",
        &["for vax", std::env::consts::ARCH],
    );
}

#[tokio::test]
async fn containers_that_make_no_sense_are_refused_by_name() {
    let directory = directory();
    let runtime = fake::runtime(directory.path(), Fault::None)
        .build()
        .unwrap();
    let sandbox = runtime.sandbox("s").start().await.unwrap();
    let spec = |root: &str| ContainerSpec::new(Rootfs::Dir(root.into())).command(["/bin/true"]);
    let invalid = ErrorKind::InvalidConfig;
    let table = [
        ("a/b", spec("/"), invalid, vec!["'/'", "use letters"]),
        ("", spec("/"), invalid, vec!["the id is empty"]),
        (
            "c",
            spec("/no/root"),
            invalid,
            vec!["root file system is /no/root"],
        ),
        ("c", spec("root"), invalid, vec!["not absolute"]),
        (
            "c",
            spec("/etc/passwd"),
            invalid,
            vec!["/etc/passwd", "a file"],
        ),
        (
            "c",
            spec("/").mount(Mount::share("/no/data", "/data")),
            invalid,
            vec!["/no/data", "mounted at /data"],
        ),
        (
            "c",
            ContainerSpec::new(Rootfs::Block {
                path: "/dev/vda".into(),
                fstype: "ext4".into(),
            })
            .command(["/bin/true"]),
            ErrorKind::Unsupported,
            vec!["/dev/vda", "Rootfs::Dir"],
        ),
        (
            "c",
            ContainerSpec::new(Rootfs::Overlay {
                lower: vec![],
                upper: None,
            })
            .command(["/bin/true"]),
            invalid,
            vec!["no lower directory"],
        ),
    ];
    for (id, spec, kind, parts) in table {
        let error = sandbox.container(id, spec).await.unwrap_err();
        says(&error, kind, "create container", &parts);
        assert!(error.target().starts_with("s/"), "{error}");
    }
    let long = "x".repeat(300);
    let error = sandbox.container(&long, spec("/")).await.unwrap_err();
    says(&error, invalid, "create container", &["300 bytes", "255"]);
    assert!(error.to_string().len() < 200, "{error}");
    assert!(sandbox.containers().is_empty());
}

#[test]
fn bundles_that_make_no_sense_are_refused_by_path() {
    let directory = directory();
    let bundle = directory.path();
    let load = || ContainerSpec::from_bundle(bundle).unwrap_err();
    let error = load();
    says(
        &error,
        ErrorKind::NotFound,
        "load bundle",
        &["config.json", "a bundle is a directory"],
    );
    std::fs::write(bundle.join("config.json"), "{\"ociVersion\": 1}").unwrap();
    says(
        &load(),
        ErrorKind::InvalidConfig,
        "load bundle",
        &["breaks the schema at ociVersion", "line 1"],
    );
    let config = r#"{"ociVersion": "1.0.2", "root": {"path": "nowhere"}}"#;
    std::fs::write(bundle.join("config.json"), config).unwrap();
    says(
        &load(),
        ErrorKind::InvalidConfig,
        "load bundle",
        &["nowhere is not there"],
    );
}

/// A QEMU to which something happens after so many seconds.
fn fated(directory: &Path, fate: &str) -> Qemu {
    let path = directory.join("qemu");
    let qemu = format!("/usr/bin/qemu-system-{}", std::env::consts::ARCH);
    let text = format!(
        "#!/bin/bash\ncase \"$*\" in *'-machine none'*) exec {qemu} \"$@\";; esac\n{fate}\n\
         exec {qemu} \"$@\"\n"
    );
    // Another process writes it, lest a fork of this one keeps it busy.
    let status = Command::new("sh")
        .args(["-c", r#"printf %s "$1" > "$0" && chmod 755 "$0""#])
        .arg(&path)
        .arg(text)
        .status();
    assert!(status.unwrap().success());
    Qemu::new().binary(path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qemu_killed_at_any_moment_is_told_and_leaves_nothing() {
    let Some(host) = Host::new() else { return };
    // What a first machine makes once for all is no leak.
    let runtime = host.runtime();
    host.start(&runtime, "warm").await.delete().await.unwrap();
    let before = Census::take(&host.state_dir());
    for moment in ["0", "0.02", "0.05", "0.1", "0.3", "0.6", "1", "1.5"] {
        let fate = format!("(sleep {moment}; kill -9 $$) <&- >&- 2>&- &");
        let builder = host
            .builder()
            .hypervisor(fated(host.directory.path(), &fate));
        let runtime = builder.build().unwrap();
        let began = Instant::now();
        match runtime.sandbox("killed").start().await {
            Err(error) => {
                let parts = ["killed by signal 9"];
                says(&error, ErrorKind::GuestLost, "start sandbox", &parts);
                assert!(error.phase().is_some());
            }
            Ok(sandbox) => {
                let exit = sandbox.wait().await;
                assert!(
                    matches!(exit, SandboxExit::MonitorCrashed { .. }),
                    "{exit:?}"
                );
            }
        }
        assert!(began.elapsed() < Duration::from_secs(20));
        drop(runtime);
        before.assert_same_soon(&host.state_dir());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_breaks_loses_the_sandbox_and_is_named() {
    let Some(host) = Host::new() else { return };
    let fifo = host.directory.path().join("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let fate = format!(
        "for a; do case $a in *id=fs0,fd=*) v=${{a##*fd=}};; esac; done
         (read x < {}; printf nonsense-nonsense >&$v) &",
        fifo.display()
    );
    let builder = host
        .builder()
        .hypervisor(fated(host.directory.path(), &fate));
    let runtime: Runtime = builder.build().unwrap();
    let sandbox = host.start(&runtime, "broken").await;
    std::fs::write(&fifo, "now\n").unwrap();
    let exit = tokio::time::timeout(Duration::from_secs(20), sandbox.wait()).await;
    let exit = exit.unwrap();
    eprintln!("{exit}");
    let SandboxExit::MonitorCrashed { reason } = exit else {
        panic!("{exit:?}")
    };
    assert!(reason.contains("virtio-fs"), "{reason}");
    assert_eq!(sandbox.state(), SandboxState::Lost);
    let error = sandbox.stats().await.unwrap_err();
    says(
        &error,
        ErrorKind::GuestLost,
        "take stats of sandbox",
        &["virtio-fs"],
    );
}
