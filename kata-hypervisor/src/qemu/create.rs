//! Making a machine: back ends and QEMU side by side, then the handshake.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::net::UnixStream;

use super::backends::Backends;
use super::plan::{Connections, Plan};
use super::qmp::Qmp;
use super::vm::QemuVm;
use super::{NAME, Qemu, arch, autopsy};
use crate::child::{Child, Program};
use crate::config::VmConfig;
use crate::error::{Error, Result};
use crate::kernel::{KernelTraits, Known};
use crate::timeline::Timeline;
use crate::validate::{self, Rules};

/// What this backend takes.
const RULES: Rules = Rules {
    backend: NAME,
    supported: arch::SUPPORTED,
    kernels: arch::KERNELS,
    longest_command_line: arch::LONGEST_COMMAND_LINE,
};

/// Makes a machine whose processors could run.
pub(super) async fn create(qemu: &Qemu, config: VmConfig, began: Instant) -> Result<QemuVm> {
    let timeline = Timeline::default();
    let facts = qemu.facts().await.map_err(|probe| Error::NotCapable {
        backend: NAME,
        findings: probe.findings,
    })?;
    timeline.ended("probe host", began);
    let checking = Instant::now();
    let (config, kernel) = check(config, Arc::clone(&qemu.kernels)).await?;
    let plan = Plan::new(&qemu.settings, facts, kernel, &config);
    validate::command_line(plan.command_line(), &RULES)?;
    timeline.ended("check configuration", checking);

    let settings = &qemu.settings;
    let has_extra = !settings.extra_args.is_empty();
    let confinement =
        settings
            .confinement
            .prepare(&config, &facts.binary, facts.acceleration, has_extra)?;

    let starting = Instant::now();
    let mut backends = Backends::start(&config)?;
    timeline.ended("start device back ends", starting);

    let spawning = Instant::now();
    let (ours, theirs) = monitor_pair()?;
    let connections = Connections {
        monitor: theirs.as_raw_fd(),
        vsock: backends.vsock,
        filesystems: std::mem::take(&mut backends.filesystems),
        nics: std::mem::take(&mut backends.nics),
    };
    let args = plan.to_args(&config, &connections);
    log::debug!(vm_id = config.id.as_str(), args:? = args; "starting QEMU");
    let mut inherit = std::mem::take(&mut backends.inherit);
    inherit.push(theirs);
    let program = Program {
        path: facts.binary.clone(),
        args,
        inherit,
        cgroup: control_groups(&config.cgroup)?,
        confinement,
    };
    let child = Child::spawn(program, &config.id, Box::new(backends.servers)).await?;
    timeline.ended("spawn qemu", spawning);

    let greeting = Instant::now();
    let qmp = Qmp::new(ours);
    if let Err(error) = qmp.negotiate(config.start_deadline).await {
        return Err(autopsy::perform(&child, &error, "starting QEMU").await);
    }
    timeline.ended("qmp greeting", greeting);
    let grows = plan.can_grow() && config.size.grows();
    Ok(QemuVm::new(config, grows, child, qmp, Arc::new(timeline)))
}

/// Opens the lists of processes of control groups.
fn control_groups(procs: &[PathBuf]) -> Result<Vec<OwnedFd>> {
    let open = |path: &PathBuf| {
        let file = std::fs::OpenOptions::new().write(true).open(path);
        file.map(OwnedFd::from).map_err(|source| Error::File {
            what: "control group",
            path: path.clone(),
            source,
        })
    };
    procs.iter().map(open).collect()
}

/// Validates on a thread that may block: it reads files.
async fn check(config: VmConfig, known: Arc<Known>) -> Result<(VmConfig, KernelTraits)> {
    let checked = tokio::task::spawn_blocking(move || {
        let kernel = validate::validate(&config, &known, &RULES)?;
        if config.devices.balloon.is_some() {
            return unsupported("memory balloons");
        }
        if config.devices.console.is_some() {
            return unsupported("consoles beside the kernel's");
        }
        Ok((config, kernel))
    });
    checked.await.unwrap_or_else(|error| {
        Err(Error::Host {
            operation: "check the configuration".to_owned(),
            source: io::Error::other(error),
        })
    })
}

fn unsupported<T>(operation: &'static str) -> Result<T> {
    Err(Error::Unsupported {
        backend: NAME,
        operation,
    })
}

/// The two ends of a monitor's connection: ours, and the one QEMU inherits.
pub(super) fn monitor_pair() -> Result<(UnixStream, OwnedFd)> {
    let failed = |source| Error::Host {
        operation: "connect to QEMU's monitor".to_owned(),
        source,
    };
    let pair = || -> io::Result<(UnixStream, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let ours = std::os::unix::net::UnixStream::from(ours);
        ours.set_nonblocking(true)?;
        Ok((UnixStream::from_std(ours)?, theirs))
    };
    pair().map_err(failed)
}
