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
use kata_devices::balloon::Balloon as Hand;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

use super::NAME;
use super::arch::Counter;
use super::devices::{Named, Transport};
use super::keeper::{Kept, Machine};
use super::usage;
use super::vcpu::Control;
use crate::config::{MemorySize, VmConfig};
use crate::console::Tail;
use crate::error::{Error, Result};
use crate::handshake;
use crate::stream::GuestStream;
use crate::timeline::Timeline;
use crate::vm::{Balloon, BalloonState, Pause, Phase, StopMode, Vm, VmExit, VmUsage};

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
    balloon: Option<Hand>,
    kept: Kept,
    /// Held by whoever changes it to the end of what it does, even if the caller
    /// has gone away meanwhile.
    state: Arc<Mutex<State>>,
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
            balloon: machine.balloon.clone(),
            state: Arc::new(Mutex::new(State::Created)),
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
        let guest = self.kept.guest.upgrade().ok_or_else(|| self.gone(phase))?;
        Ok(Counter::now(guest.vm()))
    }

    /// Waits until no processor can run, and nothing is left that another
    /// machine would miss.
    async fn release(&self) -> Result<VmExit> {
        let exit = timeout(LEAVE_DEADLINE, self.control.ending().over());
        let exit = exit.await.map_err(|_| self.late("ending the processors"))?;
        timeout(LEAVE_DEADLINE, self.kept.released())
            .await
            .map_err(|_| self.device_late())?;
        Ok(exit)
    }

    /// The error for devices that do not end: the one that is at work.
    fn device_late(&self) -> Error {
        match self.kept.ending() {
            Some(device) => Error::DeviceBusy {
                device: device.to_string(),
                deadline: LEAVE_DEADLINE,
            },
            None => self.late("ending the devices"),
        }
    }

    /// Does something with every device, on a thread that may block, and then says
    /// what the machine's state is. All of that happens, whether somebody waits
    /// for it or not, before anybody else changes the state.
    async fn each_device(
        &self,
        verb: &'static str,
        mut state: OwnedMutexGuard<State>,
        deed: impl Fn(&dyn Transport) -> io::Result<()> + Send + 'static,
        after: impl FnOnce(&mut State) + Send + 'static,
    ) -> Result<()> {
        let there = |(name, transport): &Named<Weak<dyn Transport>>| {
            Some((Arc::clone(name), transport.upgrade()?))
        };
        let transports: Vec<Named<Arc<dyn Transport>>> =
            self.kept.transports.iter().filter_map(there).collect();
        let job = tokio::task::spawn_blocking(move || {
            for (name, transport) in &transports {
                deed(&**transport).map_err(|source| Error::Host {
                    operation: format!("{verb} the {name} device"),
                    source,
                })?;
            }
            after(&mut state);
            Ok(())
        });
        let done = timeout(LEAVE_DEADLINE, job).await;
        let done = done.map_err(|_| self.late("waiting for the devices"))?;
        done.unwrap_or_else(|error| {
            Err(Error::Host {
                operation: format!("{verb} the devices"),
                source: io::Error::other(error),
            })
        })
    }

    /// The right to change the state.
    async fn state(&self, phase: &'static str) -> Result<OwnedMutexGuard<State>> {
        let state = Arc::clone(&self.state).lock_owned();
        let state = timeout(LEAVE_DEADLINE, state).await;
        state.map_err(|_| self.late(phase))
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
        let mut state = self.state("waiting for an earlier start").await?;
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
        if matches!(
            *self.state("waiting for the devices").await?,
            State::Created
        ) {
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
        let guest = self.kept.guest.upgrade().ok_or_else(|| self.gone(PHASE))?;
        let threads = self.control.threads();
        let read = tokio::task::spawn_blocking(move || usage::usage(guest.memory(), &threads));
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

    fn balloon(&self) -> Option<&dyn Balloon> {
        self.balloon.as_ref().map(|_| self as &dyn Balloon)
    }
}

impl KvmVm {
    /// The hand on the balloon of a machine that has not ended.
    fn hand(&self, operation: &'static str) -> Result<&Hand> {
        if let Some(error) = self.ended_error(operation) {
            return Err(error);
        }
        self.balloon.as_ref().ok_or(Error::Unsupported {
            backend: NAME,
            operation: "a balloon in a machine that was made without one",
        })
    }
}

#[async_trait]
impl Balloon for KvmVm {
    async fn set_target(&self, memory: MemorySize) -> Result<()> {
        let hand = self.hand("inflating its balloon")?;
        hand.set_target(memory.as_bytes());
        Ok(())
    }

    async fn state(&self) -> Result<BalloonState> {
        let hand = self.hand("asking after its balloon")?;
        Ok(BalloonState {
            given: MemorySize::bytes(hand.actual()),
            reported: MemorySize::bytes(hand.reported()),
        })
    }
}

#[async_trait]
impl Pause for KvmVm {
    async fn pause(&self) -> Result<()> {
        let mut state = self.state("waiting for an earlier pause or resume").await?;
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
        let after = move |state: &mut State| *state = State::Paused(counter);
        self.each_device("pause", state, |device| device.pause(), after)
            .await
    }

    async fn resume(&self) -> Result<()> {
        let state = self.state("waiting for an earlier pause or resume").await?;
        let counter = match *state {
            State::Created => return Err(Self::not_started("resume")),
            State::Running => return Ok(()),
            State::Pausing(counter) | State::Paused(counter) => counter,
        };
        if let Some(error) = self.ended_error("resuming") {
            return Err(error);
        }
        let guest = self.kept.guest.upgrade();
        let guest = guest.ok_or_else(|| self.gone("resuming"))?;
        let control = Arc::clone(&self.control);
        let after = move |state: &mut State| {
            control.release(counter.return_to(guest.vm()));
            *state = State::Running;
        };
        self.each_device("resume", state, |device| device.resume(), after)
            .await
    }
}

#[cfg(test)]
#[path = "vm_tests.rs"]
mod tests;
