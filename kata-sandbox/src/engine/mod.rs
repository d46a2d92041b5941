//! What runs a sandbox: the machine, the connection to the agent, the
//! containers and their exit statuses.
//!
//! The engine knows no handles: those of [`crate::Sandbox`], [`crate::Container`]
//! and [`crate::Process`] share a [`Keeper`], and the last of them ends the
//! engine. So the same engine can also live in a process of its own.

mod agent;
mod blueprint;
mod boot;
mod call;
mod connect;
mod container;
mod containers;
mod control;
mod create;
mod delete;
mod guest_setup;
mod monitor;
mod nics;
mod power;
mod process;
mod pull;
mod run;
mod shares;
mod site;
mod stats;
mod stop;
mod streams;
mod tasks;
mod translate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kata_devices::fs::SharedTree;
use kata_hypervisor::Vm;
use tokio::sync::{Mutex, OnceCell, watch};

use crate::event::{Event, EventHub};
use crate::exit::SandboxExit;
use crate::state::{SandboxState, SandboxStep};
use crate::timeline::Timeline;

pub(crate) use agent::Agent;
pub(crate) use blueprint::Blueprint;
pub(crate) use boot::boot;
pub(crate) use container::ContainerRecord;
pub(crate) use process::ProcessRecord;
pub(crate) use site::journal_error;
pub(crate) use streams::Streams;

use containers::Containers;
use shares::Shares;
use site::Site;
use tasks::Tasks;

/// What an engine is made of.
pub(crate) struct Parts {
    blueprint: Blueprint,
    vm: Arc<dyn Vm>,
    agent: Agent,
    tree: SharedTree,
    announces: bool,
    site: Site,
    timeline: Timeline,
    events: EventHub,
}

/// A sandbox that was booted. Fields drop top to bottom: what talks to the
/// guest goes before the machine, and the machine before what it stands on.
#[derive(Debug)]
pub(crate) struct Engine {
    id: String,
    labels: BTreeMap<String, String>,
    created: SystemTime,
    booted: Instant,
    timeline: Timeline,
    state: watch::Sender<SandboxState>,
    exit: watch::Sender<Option<SandboxExit>>,
    events: EventHub,
    tasks: Tasks,
    agent: Agent,
    containers: Containers,
    shares: Shares,
    /// Whether the agent has the port for standard streams; ours always has.
    stdio_port: OnceCell<bool>,
    vm: Arc<dyn Vm>,
    /// One pause or resume of the machine at a time.
    pausing: Mutex<()>,
    site: Mutex<Site>,
}

impl Engine {
    fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            blueprint,
            vm,
            agent,
            tree,
            announces,
            site,
            timeline,
            events,
        } = parts;
        let engine = Arc::new(Self {
            id: blueprint.id,
            labels: blueprint.labels,
            created: SystemTime::now(),
            booted: Instant::now(),
            timeline,
            state: watch::Sender::new(SandboxState::Starting),
            exit: watch::Sender::new(None),
            events,
            tasks: Tasks::default(),
            agent,
            containers: Containers::default(),
            shares: Shares::new(tree),
            stdio_port: OnceCell::new_with(announces.then_some(true)),
            vm,
            pausing: Mutex::new(()),
            site: Mutex::new(site),
        });
        engine.step(SandboxStep::Booted);
        engine.tasks.spawn(monitor::watch(Arc::clone(&engine)));
        engine.tasks.spawn(monitor::report_oom(Arc::clone(&engine)));
        log::info!(sandbox_id = engine.id.as_str(); "sandbox runs");
        engine
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    pub(crate) fn created(&self) -> SystemTime {
        self.created
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.booted.elapsed()
    }

    pub(crate) fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    pub(crate) fn events(&self) -> &EventHub {
        &self.events
    }

    pub(crate) fn vm(&self) -> &dyn Vm {
        &*self.vm
    }

    pub(crate) fn agent(&self) -> &Agent {
        &self.agent
    }

    pub(crate) fn containers(&self) -> &Containers {
        &self.containers
    }

    pub(crate) fn state(&self) -> SandboxState {
        *self.state.borrow()
    }

    /// Takes a step; answers whether it made sense. Listeners hear of it when
    /// it changed something.
    pub(crate) fn step(&self, step: SandboxStep) -> bool {
        let mut allowed = false;
        let changed = self
            .state
            .send_if_modified(|state| match state.after(step) {
                Some(next) => {
                    allowed = true;
                    std::mem::replace(state, next) != next
                }
                None => false,
            });
        if changed {
            let state = self.state();
            self.events.send(&Event::SandboxState {
                sandbox: self.id.clone(),
                state,
            });
        }
        allowed
    }

    /// Waits until the sandbox has ended, and nothing of it is left.
    pub(crate) async fn ended(&self) -> SandboxExit {
        let mut state = self.state.subscribe();
        // The sender is in `self`: it cannot be gone.
        drop(state.wait_for(|state| state.has_ended()).await);
        self.exit.borrow().clone().unwrap_or(SandboxExit::Stopped)
    }

    /// Notes how the sandbox ended; the first word counts.
    fn note_exit(&self, exit: SandboxExit) {
        self.exit.send_if_modified(|noted| {
            let first = noted.is_none();
            noted.get_or_insert(exit);
            first
        });
    }

    /// Gives up: no task goes on, and the machine is killed as they end.
    fn abandon(&self) {
        self.tasks.abort_all();
        if !self.state().has_ended() {
            self.note_exit(SandboxExit::Stopped);
            self.step(SandboxStep::Stop);
            self.step(SandboxStep::Ended);
        }
    }
}

/// Keeps a sandbox alive: every handle has a share in it.
#[derive(Debug)]
pub(crate) struct Keeper {
    engine: Arc<Engine>,
}

impl Keeper {
    pub(crate) fn new(engine: Arc<Engine>) -> Arc<Self> {
        Arc::new(Self { engine })
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.engine.abandon();
    }
}
