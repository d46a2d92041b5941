//! A machine in this process.
//!
//! ```text
//!   created ──start──▶ running ◀──resume── ──pause──▶ paused
//!      └───────────────────┴──── ends: guest, kill, fault ────▶ ended
//! ```

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kata_devices::virtio::mmio::MmioTransport;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::arch::Counter;
use super::keeper::{Kept, Machine};
use super::usage;
use super::vcpu::Control;
use crate::config::VmConfig;
use crate::console::Tail;
use crate::error::{Error, Result};
use crate::handshake;
use crate::stream::GuestStream;
use crate::timeline::Timeline;
use crate::vm::{Pause, Phase, StopMode, Vm, VmExit, VmUsage};

/// How long a processor may take to leave the guest, and a device to end.
const LEAVE_DEADLINE: Duration = Duration::from_secs(30);
/// How long the guest may take to accept a connection or refuse it. The device
/// refuses for a silent guest after ten seconds, so this is not reached.
const DIAL_DEADLINE: Duration = Duration::from_secs(15);

/// A machine in this process.
#[derive(Debug)]
pub(super) struct KvmVm {
    vsock: Option<PathBuf>,
    control: Arc<Control>,
    console: Arc<Tail>,
    timeline: Timeline,
    kept: Kept,
    state: Mutex<State>,
}

/// What was done with it so far.
#[derive(Debug)]
enum State {
    Created,
    Running,
    /// A pause has begun, and may not have come to its end.
    Pausing(Counter),
    Paused(Counter),
}

impl KvmVm {
    pub(super) fn new(config: VmConfig, machine: Machine, timeline: Timeline) -> Result<Self> {
        Ok(Self {
            vsock: config.devices.vsock.map(|vsock| vsock.socket),
            control: Arc::clone(&machine.wiring.control),
            console: Arc::clone(&machine.wiring.console),
            timeline,
            state: Mutex::new(State::Created),
            kept: machine.keep()?,
        })
    }

    /// The error for a machine that has ended, if it has.
    fn ended_error(&self, phase: &'static str) -> Option<Error> {
        let exit = self.control.ending().verdict()?;
        Some(Error::Ended {
            phase,
            reason: exit.to_string(),
            console_tail: self.console.bytes(),
        })
    }

    fn not_started(operation: &'static str) -> Error {
        Error::State {
            operation,
            state: "not started",
        }
    }

    /// The error of what came too late, or nearly so.
    fn gone(&self, phase: &'static str) -> Error {
        self.ended_error(phase).unwrap_or(Error::State {
            operation: phase,
            state: "stopped",
        })
    }

    /// The counters of the machine, now.
    fn counter(&self, phase: &'static str) -> Result<Counter> {
        let vm = self.kept.vm.upgrade().ok_or_else(|| self.gone(phase))?;
        Ok(Counter::now(&vm))
    }

    /// Waits until no processor can run, and nothing is left that another
    /// machine would miss.
    async fn release(&self) -> Result<VmExit> {
        let exit = timeout(LEAVE_DEADLINE, self.control.ending().over());
        let exit = exit.await.map_err(|_| self.late("ending the processors"))?;
        timeout(LEAVE_DEADLINE, self.kept.released())
            .await
            .map_err(|_| self.late("ending the devices"))?;
        Ok(exit)
    }

    /// Does something with every device, on a thread that may block.
    async fn each_device(
        &self,
        phase: &'static str,
        deed: impl Fn(&MmioTransport) -> io::Result<()> + Send + 'static,
    ) -> Result<()> {
        let transports: Vec<_> = self
            .kept
            .transports
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let done = tokio::task::spawn_blocking(move || {
            transports.iter().try_for_each(|transport| deed(transport))
        });
        let done = done
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)));
        done.map_err(|source| Error::Host {
            operation: format!("go on with {phase} the devices"),
            source,
        })
    }

    fn late(&self, phase: &'static str) -> Error {
        Error::Timeout {
            phase,
            deadline: LEAVE_DEADLINE,
            console_tail: self.console.bytes(),
        }
    }
}

impl Drop for KvmVm {
    fn drop(&mut self) {
        // The keeper does the rest.
        self.control.end(VmExit::Killed);
    }
}

#[async_trait]
impl Vm for KvmVm {
    async fn start(&self) -> Result<()> {
        let began = Instant::now();
        let mut state = self.state.lock().await;
        if !matches!(*state, State::Created) {
            return Err(Error::State {
                operation: "start",
                state: "started already",
            });
        }
        if let Some(error) = self.ended_error("starting the processors") {
            return Err(error);
        }
        *state = State::Running;
        self.control.release(0);
        self.timeline.ended("start processors", began);
        Ok(())
    }

    async fn stop(&self, how: StopMode) -> Result<VmExit> {
        if let StopMode::Await(grace) = how {
            // Whether it ended or not, what is left is ended next.
            let _ = timeout(grace, self.control.ending().over()).await;
        }
        self.control.end(VmExit::Killed);
        self.release().await
    }

    async fn wait(&self) -> Result<VmExit> {
        Ok(self.control.ending().over().await)
    }

    async fn dial(&self, port: u32) -> Result<GuestStream> {
        if let Some(error) = self.ended_error("dialling the guest") {
            return Err(error);
        }
        if matches!(*self.state.lock().await, State::Created) {
            return Err(Self::not_started("dial"));
        }
        let Some(socket) = &self.vsock else {
            return Err(Error::InvalidConfig {
                field: "vsock",
                reason: "this machine has no vsock device".to_owned(),
            });
        };
        tokio::select! {
            stream = handshake::dial(socket, port, DIAL_DEADLINE) => stream,
            _ = self.control.ending().over() => Err(self
                .ended_error("dialling the guest")
                .unwrap_or(Error::Refused { port })),
        }
    }

    fn console_tail(&self) -> Vec<u8> {
        self.console.bytes()
    }

    fn phases(&self) -> Vec<Phase> {
        let mut phases = self.timeline.phases();
        let start = phases
            .iter()
            .rposition(|phase| phase.name == "start processors");
        if let (Some(start), Some(first)) = (start, self.console.first()) {
            let began = phases[start].began + phases[start].took;
            let took = first.saturating_duration_since(began);
            phases.push(Phase {
                name: "first console byte",
                began,
                took,
            });
        }
        phases.sort_by_key(|phase| phase.began);
        phases
    }

    async fn usage(&self) -> Result<VmUsage> {
        const PHASE: &str = "reading its usage";
        if let Some(error) = self.ended_error(PHASE) {
            return Err(error);
        }
        let memory = self.kept.memory.upgrade().ok_or_else(|| self.gone(PHASE))?;
        let threads = self.control.threads();
        let read = tokio::task::spawn_blocking(move || usage::usage(&memory, &threads));
        let read = read
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)));
        read.map_err(|source| Error::Host {
            operation: "read what the machine uses".to_owned(),
            source,
        })
    }

    fn pause(&self) -> Option<&dyn Pause> {
        Some(self)
    }
}

#[async_trait]
impl Pause for KvmVm {
    async fn pause(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        match *state {
            State::Created => return Err(Self::not_started("pause")),
            State::Paused(_) => return Ok(()),
            // Every step may be taken again.
            State::Running | State::Pausing(_) => {}
        }
        let counter = self.counter("pausing")?;
        // From here on it can be resumed, even if the caller goes away.
        *state = State::Pausing(counter);
        timeout(LEAVE_DEADLINE, self.control.hold())
            .await
            .map_err(|_| self.late("pausing the processors"))?;
        if let Some(error) = self.ended_error("pausing") {
            return Err(error);
        }
        let counter = self.counter("pausing")?;
        *state = State::Pausing(counter);
        self.each_device("pausing", |device| {
            device.pause();
            Ok(())
        })
        .await?;
        *state = State::Paused(counter);
        Ok(())
    }

    async fn resume(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        let counter = match *state {
            State::Created => return Err(Self::not_started("resume")),
            State::Running => return Ok(()),
            State::Pausing(counter) | State::Paused(counter) => counter,
        };
        if let Some(error) = self.ended_error("resuming") {
            return Err(error);
        }
        self.each_device("resuming", MmioTransport::resume).await?;
        let vm = self
            .kept
            .vm
            .upgrade()
            .ok_or_else(|| self.gone("resuming"))?;
        let stood = counter.return_to(&vm);
        drop(vm);
        *state = State::Running;
        self.control.release(stood);
        Ok(())
    }
}
