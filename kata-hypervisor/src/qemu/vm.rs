//! A machine that QEMU runs.
//!
//! ```text
//!   created ──start──▶ running ◀──resume── ──pause──▶ paused
//!      └───────────────────┴──── ends: guest, kill, crash ────▶ ended
//! ```

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;

use super::ports::Ports;
use super::qmp::{Plugged, Qmp, QmpError};
use super::{NAME, exit, usage};
use crate::child::Child;
use crate::config::{MachineSize, VmConfig};
use crate::error::{Error, Result};
use crate::handshake;
use crate::nic::{Mac, NicConfig};
use crate::stream::GuestStream;
use crate::timeline::Timeline;
use crate::vm::{DiskPlug, Hotplug, NicPlug, Pause, Phase, StopMode, Vm, VmExit, VmUsage};

/// How long a killed process may take to be gone: the kernel frees its memory.
const KILL_DEADLINE: Duration = Duration::from_secs(30);
/// How long a dead QEMU's last events may take to be read.
const LAST_EVENTS: Duration = Duration::from_secs(2);
/// How long a command to a running QEMU may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);
/// How long the guest may take to accept a connection or refuse it. The device
/// refuses for a silent guest after ten seconds, so this is not reached.
const DIAL_DEADLINE: Duration = Duration::from_secs(15);

/// A machine that QEMU runs. Fields drop top to bottom: the process is killed
/// before its monitor's connection goes.
#[derive(Debug)]
pub(super) struct QemuVm {
    child: Child,
    qmp: Qmp,
    id: String,
    vsock: Option<PathBuf>,
    start_deadline: Duration,
    /// What it was described with.
    size: MachineSize,
    /// Whether it can grow and shrink.
    grows: bool,
    spare_disks: u32,
    ports: Mutex<Ports>,
    spare_nics: u32,
    nics: Mutex<Nics>,
    /// One change of its size at a time.
    resizing: Mutex<()>,
    timeline: Arc<Timeline>,
    start: StartOnce,
    exit: OnceLock<VmExit>,
}

/// Network devices that were attached while it ran.
#[derive(Debug)]
pub(super) struct Nics {
    pub(super) ports: Ports,
    /// By hardware address.
    pub(super) configs: BTreeMap<String, NicConfig>,
}

/// Whether the processors were told to run, and when.
#[derive(Debug, Default)]
struct StartOnce {
    claimed: AtomicBool,
    running_since: OnceLock<Instant>,
}

impl QemuVm {
    pub(super) fn new(
        config: VmConfig,
        grows: bool,
        child: Child,
        qmp: Qmp,
        timeline: Arc<Timeline>,
    ) -> Self {
        let devices = config.devices;
        let (disks, nics) = (devices.spare_disks, devices.spare_nics);
        let fixed = devices.disks.into_iter().map(|disk| disk.id);
        let fixed_nics = devices.nics.iter().map(|nic| Mac(nic.mac).to_string());
        Self {
            size: config.size,
            grows,
            spare_disks: disks,
            ports: Mutex::new(Ports::new("disk", 0, disks, fixed.collect())),
            spare_nics: nics,
            nics: Mutex::new(Nics {
                ports: Ports::new("network device", disks, nics, fixed_nics.collect()),
                configs: BTreeMap::new(),
            }),
            resizing: Mutex::default(),
            child,
            qmp,
            id: config.id,
            vsock: devices.vsock.map(|vsock| vsock.socket),
            start_deadline: config.start_deadline,
            timeline,
            start: StartOnce::default(),
            exit: OnceLock::new(),
        }
    }

    /// Waits until QEMU is gone, and judges once.
    async fn ended(&self) -> VmExit {
        let end = self.child.ended().await;
        if let Some(exit) = self.exit.get() {
            return exit.clone();
        }
        // What QEMU said last is still in the socket; nothing can follow it.
        let _ = timeout(LAST_EVENTS, self.qmp.closed()).await;
        let judge = || {
            let exit = exit::classify(
                &end,
                self.child.was_killed(),
                self.qmp.seen(),
                self.child.output(),
            );
            log::debug!(vm_id = self.id.as_str(), exit:? = exit; "the machine has ended");
            exit
        };
        self.exit.get_or_init(judge).clone()
    }

    /// The error for a machine that has ended, if it has.
    async fn ended_error(&self, phase: &'static str) -> Option<Error> {
        self.child.end()?;
        let exit = self.ended().await;
        Some(Error::Ended {
            phase,
            reason: exit.to_string(),
            console_tail: self.child.output().console.bytes(),
        })
    }

    /// Executes a command on a machine that runs.
    async fn command(
        &self,
        phase: &'static str,
        name: &'static str,
        within: Duration,
    ) -> Result<()> {
        match self.qmp.execute(name, None, within).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain(phase, name, error).await),
        }
    }

    /// Executes a command with arguments on a machine that runs, and gives its
    /// answer.
    pub(super) async fn ask(
        &self,
        phase: &'static str,
        name: &'static str,
        arguments: Option<Value>,
    ) -> Result<Value> {
        match self.qmp.execute(name, arguments, COMMAND_DEADLINE).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.explain(phase, name, error).await),
        }
    }

    /// Waits until events answer `question`; `None` when they did not in time.
    pub(super) async fn told<T>(
        &self,
        phase: &'static str,
        within: Duration,
        question: impl FnMut(&Plugged) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.qmp.until(within, question).await {
            Ok(answer) => Ok(Some(answer)),
            Err(QmpError::Timeout(_)) => Ok(None),
            Err(error) => Err(self.explain(phase, "wait", error).await),
        }
    }

    /// The connection to its monitor.
    pub(super) fn monitor(&self) -> &Qmp {
        &self.qmp
    }

    /// What it was described with.
    pub(super) fn size(&self) -> MachineSize {
        self.size
    }

    /// Waits for its turn to change the size.
    pub(super) async fn resizing(&self) -> MutexGuard<'_, ()> {
        self.resizing.lock().await
    }

    /// The ports for disks, for one caller at a time.
    pub(super) async fn ports(&self) -> MutexGuard<'_, Ports> {
        self.ports.lock().await
    }

    /// The network devices that come and go, for one caller at a time.
    pub(super) async fn nics_attached(&self) -> MutexGuard<'_, Nics> {
        self.nics.lock().await
    }

    /// Hands QEMU a descriptor, to be known by that name.
    pub(super) async fn hand(&self, phase: &'static str, name: &str, fd: OwnedFd) -> Result<()> {
        const COMMAND: &str = "getfd";
        let arguments = Some(serde_json::json!({"fdname": name}));
        let handed = self.qmp.hand(COMMAND, arguments, fd, COMMAND_DEADLINE);
        match handed.await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain(phase, COMMAND, error).await),
        }
    }

    /// What a command's failure means.
    async fn explain(&self, phase: &'static str, name: &'static str, error: QmpError) -> Error {
        match error {
            QmpError::Refused(reason) => Error::Command {
                backend: NAME,
                command: name.to_owned(),
                reason,
            },
            QmpError::Timeout(deadline) => Error::Timeout {
                phase,
                deadline,
                console_tail: self.console_tail(),
            },
            QmpError::Closed(_) => {
                // Without its monitor it cannot be steered: it goes, if it has not.
                if timeout(LAST_EVENTS, self.child.ended()).await.is_err() {
                    self.child.kill();
                }
                let exit = self.ended().await;
                let reason = format!("{exit} ({error})");
                Error::Ended {
                    phase,
                    reason,
                    console_tail: self.console_tail(),
                }
            }
        }
    }

    pub(super) fn must_run(&self, operation: &'static str) -> Result<()> {
        match self.start.running_since.get() {
            Some(_) => Ok(()),
            None => Err(Error::State {
                operation,
                state: "not started",
            }),
        }
    }

    async fn kill(&self) -> Result<VmExit> {
        self.child.kill();
        timeout(KILL_DEADLINE, self.ended())
            .await
            .map_err(|_| Error::Timeout {
                phase: "killing QEMU",
                deadline: KILL_DEADLINE,
                console_tail: self.console_tail(),
            })
    }
}

/// Kills the machine unless told that all went well.
struct KillUnless<'a> {
    child: &'a Child,
    well: bool,
}

impl Drop for KillUnless<'_> {
    fn drop(&mut self) {
        if !self.well {
            self.child.kill();
        }
    }
}

#[async_trait]
impl Vm for QemuVm {
    async fn start(&self) -> Result<()> {
        if self.start.claimed.swap(true, Ordering::AcqRel) {
            return Err(Error::State {
                operation: "start",
                state: "started already",
            });
        }
        if let Some(error) = self.ended_error("starting the processors").await {
            return Err(error);
        }
        // A start that fails, or whose future is dropped, leaves a machine in
        // a state that nobody knows: it must not run on.
        let mut guard = KillUnless {
            child: &self.child,
            well: false,
        };
        let began = Instant::now();
        self.command("starting the processors", "cont", self.start_deadline)
            .await?;
        self.timeline.ended("start processors", began);
        let _ = self.start.running_since.set(Instant::now());
        guard.well = true;
        Ok(())
    }

    async fn stop(&self, how: StopMode) -> Result<VmExit> {
        if let StopMode::Await(grace) = how
            && let Ok(exit) = timeout(grace, self.ended()).await
        {
            return Ok(exit);
        }
        self.kill().await
    }

    async fn wait(&self) -> Result<VmExit> {
        Ok(self.ended().await)
    }

    async fn dial(&self, port: u32) -> Result<GuestStream> {
        const PHASE: &str = "connecting to the guest over vsock";
        let Some(socket) = &self.vsock else {
            return Err(Error::State {
                operation: "dial",
                state: "without a vsock device",
            });
        };
        self.must_run("dial")?;
        if let Some(error) = self.ended_error(PHASE).await {
            return Err(error);
        }
        tokio::select! {
            biased;
            dialled = handshake::dial(socket, port, DIAL_DEADLINE) => match dialled {
                Err(Error::Timeout { phase, deadline, .. }) => {
                    Err(Error::Timeout { phase, deadline, console_tail: self.console_tail() })
                }
                // A dying machine refuses everybody; say what it is instead.
                Err(error) => Err(self.ended_error(PHASE).await.unwrap_or(error)),
                ok => ok,
            },
            exit = self.ended() => Err(Error::Ended {
                phase: PHASE,
                reason: exit.to_string(),
                console_tail: self.console_tail(),
            }),
        }
    }

    fn console_tail(&self) -> Vec<u8> {
        self.child.output().console.bytes()
    }

    fn phases(&self) -> Vec<Phase> {
        let mut phases = self.timeline.phases();
        let began = self.start.running_since.get();
        if let (Some(&began), Some(first)) = (began, self.child.first_console_byte()) {
            let took = first.saturating_duration_since(began);
            phases.push(Phase {
                name: "first console byte",
                began,
                took,
            });
        }
        phases
    }

    fn monitor(&self) -> Option<u32> {
        u32::try_from(self.child.pid().as_raw_nonzero().get()).ok()
    }

    async fn usage(&self) -> Result<VmUsage> {
        let read = usage::usage(self.child.pid()).await;
        // Whatever was read after its end was another process's.
        if self.child.end().is_some() {
            return Err(Error::State {
                operation: "usage",
                state: "stopped",
            });
        }
        read.map_err(|source| Error::Host {
            operation: format!(
                "read what process {} uses",
                self.child.pid().as_raw_nonzero()
            ),
            source,
        })
    }

    fn pause(&self) -> Option<&dyn Pause> {
        Some(self)
    }

    fn hotplug(&self) -> Option<&dyn Hotplug> {
        if self.grows { Some(self) } else { None }
    }

    fn disks(&self) -> Option<&dyn DiskPlug> {
        if self.spare_disks > 0 {
            Some(self)
        } else {
            None
        }
    }

    fn nics(&self) -> Option<&dyn NicPlug> {
        if self.spare_nics > 0 {
            Some(self)
        } else {
            None
        }
    }
}

#[async_trait]
impl Pause for QemuVm {
    async fn pause(&self) -> Result<()> {
        self.must_run("pause")?;
        self.command("pausing the processors", "stop", COMMAND_DEADLINE)
            .await
    }

    async fn resume(&self) -> Result<()> {
        self.must_run("resume")?;
        self.command("resuming the processors", "cont", COMMAND_DEADLINE)
            .await
    }
}
