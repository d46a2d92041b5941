//! A QEMU that passes the probe and then misbehaves: each way is a typed error
//! within its deadline, and nothing is left behind.
#![cfg(feature = "qemu")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kata_devices::vsock::VsockConfig;
use kata_hypervisor::qemu::Qemu;
use kata_hypervisor::{
    Devices, Error, Hypervisor, KernelCommandLine, MachineSize, MemorySize, StopMode, VmConfig,
    VmExit,
};

/// A machine of a case, or the reason to skip it.
struct Case {
    directory: tempfile::TempDir,
    kernel: PathBuf,
    qemu: PathBuf,
}

impl Case {
    fn new() -> Option<Self> {
        let kernel = std::env::var_os("KATA_TEST_KERNEL").map(PathBuf::from);
        let program = format!("/usr/bin/qemu-system-{}", std::env::consts::ARCH);
        match kernel {
            Some(kernel) if Path::new(&program).exists() => Some(Self {
                directory: tempfile::tempdir().expect("a temporary directory"),
                kernel,
                qemu: program.into(),
            }),
            _ => {
                eprintln!("skipped: KATA_TEST_KERNEL names no kernel, or {program} is missing");
                None
            }
        }
    }

    /// A QEMU that answers the probe, and does `deed` when it is to run a machine.
    fn script(&self, deed: &str) -> Qemu {
        let path = self.directory.path().join("qemu");
        let text = format!(
            "#!/bin/bash\ncase \"$*\" in *'-machine none'*) exec {} \"$@\";; esac\n{deed}\n",
            self.qemu.display()
        );
        // Another process writes it, lest a fork of this one keeps it busy.
        let status = Command::new("sh")
            .args(["-c", r#"printf %s "$1" > "$0" && chmod 755 "$0""#])
            .arg(&path)
            .arg(text)
            .status();
        assert!(status.expect("a shell").success());
        Qemu::new().binary(path)
    }

    fn config(&self, deadline: Duration) -> VmConfig {
        let run_dir = self.directory.path().join("run");
        std::fs::create_dir(&run_dir).expect("a fresh name");
        let memory = MemorySize::mib(64);
        VmConfig {
            id: "refused".to_owned(),
            run_dir,
            size: MachineSize {
                vcpus: 1,
                max_vcpus: 1,
                memory,
                max_memory: memory,
            },
            kernel: self.kernel.clone(),
            initramfs: None,
            command_line: KernelCommandLine::new(),
            devices: Devices::default(),
            cgroup: Vec::new(),
            start_deadline: deadline,
        }
    }

    async fn create(&self, qemu: Qemu, deadline: Duration) -> Error {
        let config = self.config(deadline);
        qemu.create(config).await.expect_err("no machine is made")
    }
}

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn one_that_exits_is_quoted() {
    let Some(case) = Case::new() else { return };
    let qemu = case.script("echo 'cannot set up guest memory' >&2; exit 1");
    let error = case.create(qemu, SOON).await;
    let Error::Ended { phase, reason, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*phase, "starting QEMU");
    assert!(reason.contains("status 1: cannot set up"), "{reason}");
}

#[tokio::test]
async fn one_that_hangs_is_killed_at_the_deadline() {
    let Some(case) = Case::new() else { return };
    let qemu = case.script("exec sleep 1000");
    qemu.probe().await;
    let began = Instant::now();
    let error = case.create(qemu, Duration::from_millis(300)).await;
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    assert!(began.elapsed() < SOON);
}

#[tokio::test]
async fn one_that_speaks_garbage_is_told_apart() {
    let Some(case) = Case::new() else { return };
    let qemu = case.script(
        "for a; do case $a in *id=qmp,fd=*) echo hello >&${a##*fd=};; esac; done; exec sleep 1000",
    );
    let error = case.create(qemu, SOON).await;
    assert!(error.to_string().contains("garbage"), "{error}");
}

#[tokio::test]
async fn one_that_is_killed_says_so() {
    let Some(case) = Case::new() else { return };
    let qemu = case.script("kill -SEGV $$");
    let error = case.create(qemu, SOON).await;
    assert!(error.to_string().contains("signal 11"), "{error}");
}

#[tokio::test]
async fn an_argument_that_qemu_does_not_know_is_quoted() {
    let Some(case) = Case::new() else { return };
    let qemu = Qemu::new().binary(&case.qemu).extra_arg("-no-such-option");
    let error = case.create(qemu, SOON).await;
    assert!(error.to_string().contains("no-such-option"), "{error}");
}

/// Takes the descriptor of the vsock device's back end.
const VSOCK: &str = "for a; do case $a in *id=vsock,fd=*) v=${a##*fd=};; esac; done";

fn with_vsock(mut config: VmConfig) -> VmConfig {
    config.devices.vsock = Some(VsockConfig {
        guest_cid: 3,
        socket: config.run_dir.join("vsock"),
    });
    config
}

#[tokio::test]
async fn one_that_breaks_a_device_is_killed_and_the_device_is_named() {
    let Some(case) = Case::new() else { return };
    let qemu = case.script(&format!(
        "{VSOCK}; printf nonsense-nonsense >&$v; exec sleep 1000"
    ));
    let config = with_vsock(case.config(SOON));
    let error = qemu.create(config).await.expect_err("no machine is made");
    let Error::Ended { reason, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(reason.contains("vsock device has ended"), "{reason}");
}

#[tokio::test]
async fn a_machine_whose_device_breaks_later_has_crashed() {
    let Some(case) = Case::new() else { return };
    let fifo = case.directory.path().join("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status();
    assert!(made.expect("mkfifo").success());
    // Beside QEMU, somebody waits to be told, then talks into its connection.
    let qemu = case.script(&format!(
        "{VSOCK}; (read x < {}; printf nonsense-nonsense >&$v) & exec {} \"$@\"",
        fifo.display(),
        case.qemu.display()
    ));
    let config = with_vsock(case.config(SOON));
    let vm = qemu.create(config).await.expect("a machine");
    std::fs::write(&fifo, "now\n").expect("somebody reads");
    let exit = tokio::time::timeout(SOON, vm.wait()).await;
    let exit = exit.expect("it ends soon").expect("how it ended");
    let VmExit::Crashed { reason } = &exit else {
        panic!("{exit:?}")
    };
    assert!(reason.contains("vsock device has ended"), "{reason}");
    assert_eq!(vm.stop(StopMode::Kill).await.expect("stop"), exit);
}
