//! A backend for somebody else's monitor: a program that is told all on its
//! command line, runs at once, writes the guest's console to its standard
//! output, and serves vsock on a unix socket as Firecracker does.
//!
//! `cargo run -p kata-hypervisor --example third_party_backend -- MONITOR KERNEL`

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kata_hypervisor::{
    Acceleration, Devices, Error, GuestStream, Hypervisor, KernelCommandLine, MachineSize,
    MemorySize, Phase, Probe, Result, Severity, StopMode, Vm, VmConfig, VmExit, VmUsage,
    async_trait, handshake,
};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};

const NAME: &str = "acme";
const CONSOLE_TAIL: usize = 64 << 10;

/// Makes machines that the monitor at `binary` runs.
#[derive(Debug)]
struct Acme {
    binary: PathBuf,
}

#[derive(Debug)]
struct AcmeVm {
    binary: PathBuf,
    config: VmConfig,
    console: Arc<Mutex<Vec<u8>>>,
    /// Sending to it kills the monitor, and so does dropping it.
    kill: mpsc::Sender<()>,
    /// What the task that is to own the monitor takes.
    killed: Mutex<Option<mpsc::Receiver<()>>>,
    exit: watch::Sender<Option<VmExit>>,
}

#[async_trait]
impl Hypervisor for Acme {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn probe(&self) -> Probe {
        let mut probe = Probe::default();
        if self.binary.is_file() {
            probe.acceleration = Some(Acceleration::Kvm);
        } else {
            let what = format!("{} is missing", self.binary.display());
            probe.find(Severity::Blocker, what, Some("install acme"));
        }
        probe
    }

    async fn create(&self, config: VmConfig) -> Result<Box<dyn Vm>> {
        // What it cannot do is refused, and never left out.
        if !config.devices.filesystems.is_empty() {
            let operation = "shared directories";
            return Err(Error::Unsupported {
                backend: NAME,
                operation,
            });
        }
        let (kill, killed) = mpsc::channel(1);
        Ok(Box::new(AcmeVm {
            binary: self.binary.clone(),
            config,
            console: Arc::default(),
            kill,
            killed: Mutex::new(Some(killed)),
            exit: watch::Sender::new(None),
        }))
    }
}

impl AcmeVm {
    fn spawn(&self) -> Result<Child> {
        let VmConfig { size, devices, .. } = &self.config;
        let mut command = Command::new(&self.binary);
        command.arg("--kernel").arg(&self.config.kernel);
        command
            .arg("--cmdline")
            .arg(self.config.command_line.to_string());
        command.arg("--vcpus").arg(size.vcpus.to_string());
        command
            .arg("--memory-mib")
            .arg(size.memory.as_mib().to_string());
        if let Some(initramfs) = &self.config.initramfs {
            command.arg("--initramfs").arg(initramfs);
        }
        if let Some(vsock) = &devices.vsock {
            command.arg("--vsock").arg(&vsock.socket);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let spawned = command.spawn();
        spawned.map_err(|source| Error::Spawn {
            program: self.binary.clone(),
            source,
        })
    }
}

/// Owns the monitor: whoever waits and whoever kills never contend for it.
async fn own(
    mut child: Child,
    mut killed: mpsc::Receiver<()>,
    console: Arc<Mutex<Vec<u8>>>,
) -> VmExit {
    let mut output = child.stdout.take().expect("it is piped");
    let mut buffer = vec![0; 4096];
    let reading = async {
        while let Ok(count @ 1..) = output.read(&mut buffer).await {
            let mut tail = console.lock().unwrap_or_else(PoisonError::into_inner);
            tail.extend_from_slice(&buffer[..count]);
            let excess = tail.len().saturating_sub(CONSOLE_TAIL);
            tail.drain(..excess);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        status = child.wait() => exit_of(status),
        _ = killed.recv() => {
            drop(child.kill().await); // what cannot be killed has ended
            VmExit::Killed
        }
        () = reading => unreachable!("it never ends"),
    }
}

fn exit_of(status: std::io::Result<ExitStatus>) -> VmExit {
    match status {
        Ok(status) if status.success() => VmExit::PowerOff,
        Ok(status) => VmExit::Crashed {
            reason: status.to_string(),
        },
        Err(error) => VmExit::Crashed {
            reason: error.to_string(),
        },
    }
}

#[async_trait]
impl Vm for AcmeVm {
    async fn start(&self) -> Result<()> {
        let killed = self
            .killed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(killed) = killed else {
            let (operation, state) = ("start", "started already");
            return Err(Error::State { operation, state });
        };
        let (child, exit) = (self.spawn()?, self.exit.clone());
        let owned = own(child, killed, Arc::clone(&self.console));
        tokio::spawn(async move { exit.send_replace(Some(owned.await)) });
        Ok(())
    }

    async fn stop(&self, how: StopMode) -> Result<VmExit> {
        if let StopMode::Await(grace) = how
            && let Ok(exit) = tokio::time::timeout(grace, self.wait()).await
        {
            return exit;
        }
        if self
            .killed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .is_some()
        {
            self.exit.send_replace(Some(VmExit::Killed)); // it was never started
        }
        // Full, or with nobody at the other end: it is being killed, or dead.
        let _ = self.kill.try_send(());
        self.wait().await
    }

    async fn wait(&self) -> Result<VmExit> {
        let mut exit = self.exit.subscribe();
        let ended = exit
            .wait_for(Option::is_some)
            .await
            .expect("the sender is in self");
        Ok(ended.clone().expect("it was waited for"))
    }

    async fn dial(&self, port: u32) -> Result<GuestStream> {
        let Some(vsock) = &self.config.devices.vsock else {
            let (operation, state) = ("dial", "without a vsock device");
            return Err(Error::State { operation, state });
        };
        handshake::dial(&vsock.socket, port, Duration::from_secs(10)).await
    }

    fn console_tail(&self) -> Vec<u8> {
        self.console
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn phases(&self) -> Vec<Phase> {
        Vec::new()
    }

    async fn usage(&self) -> Result<VmUsage> {
        Err(Error::Unsupported {
            backend: NAME,
            operation: "usage",
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(binary), Some(kernel)) = (args.next(), args.next()) else {
        return Err("usage: third_party_backend MONITOR KERNEL".into());
    };
    let acme = Acme { binary };
    println!("{:?}", acme.probe().await);
    let memory = MemorySize::mib(128);
    let vm = acme
        .create(VmConfig {
            id: "example".to_owned(),
            run_dir: std::env::temp_dir(),
            size: MachineSize {
                vcpus: 1,
                max_vcpus: 1,
                memory,
                max_memory: memory,
            },
            kernel,
            initramfs: None,
            command_line: KernelCommandLine::from_iter(["quiet"]),
            devices: Devices::default(),
            cgroup: Vec::new(),
            start_deadline: Duration::from_secs(10),
        })
        .await?;
    vm.start().await?;
    println!(
        "{:?}",
        vm.stop(StopMode::Await(Duration::from_secs(10))).await?
    );
    println!("{}", String::from_utf8_lossy(&vm.console_tail()));
    Ok(())
}
