//! What runs a sandbox: the machine, the connection to the agent, the
//! containers and their exit statuses.
//!
//! The engine knows no handles: those of [`crate::Sandbox`], [`crate::Container`]
//! and [`crate::Process`] share a [`Home`](crate::home::Home), and the last of
//! them ends an engine in this process. The same engine can also live in a
//! supervisor, a process of its own.

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
pub(crate) mod devices;
mod disks;
mod finish;
mod grow;
mod guest_network;
mod guest_setup;
mod hooks;
mod monitor;
mod networks;
mod nics;
mod power;
mod process;
mod pull;
mod run;
mod shares;
mod sharing;
mod site;
mod stats;
mod stop;
mod streams;
mod tasks;
mod tie;
mod translate;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use kata_devices::fs::SharedTree;
use kata_hypervisor::Vm;
use tokio::sync::{Mutex, OnceCell};

use crate::event::EventHub;
use crate::exit::SandboxExit;
use crate::home::{Facts, SandboxFace};
use crate::journal::Steps;
use crate::state::{SandboxState, SandboxStep};
use crate::timeline::Timeline;

pub(crate) use agent::Agent;
pub(crate) use blueprint::Blueprint;
pub(crate) use boot::boot;
pub(crate) use container::ContainerRecord;
pub(crate) use finish::finish;
pub(crate) use site::journal_error;
pub(crate) use streams::Streams;

use containers::Containers;
use disks::Disks;
use networks::Networks;
use shares::Shares;
use site::Site;
use tasks::Tasks;

/// What an engine is made of.
pub(crate) struct Parts {
    networks: Networks,
    blueprint: Blueprint,
    vm: Arc<dyn Vm>,
    agent: Agent,
    tree: SharedTree,
    announces: bool,
    site: Site,
    timeline: Timeline,
    events: EventHub,
    steps: Steps,
}

/// A sandbox that was booted. Fields drop top to bottom: what talks to the
/// guest goes before the machine, and the machine before what it stands on.
#[derive(Debug)]
pub(crate) struct Engine {
    id: String,
    face: Arc<SandboxFace>,
    events: EventHub,
    steps: Steps,
    call_timeout: Duration,
    tasks: Tasks,
    agent: Agent,
    containers: Containers,
    shares: Shares,
    size: grow::Size,
    disks: Disks,
    networks: Networks,
    /// Whether the pid namespace of the sandbox is there to be shared.
    shared_process_ids: bool,
    /// What was said once and need not be said again.
    said: std::sync::Mutex<BTreeSet<&'static str>>,
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
            networks,
            blueprint,
            vm,
            agent,
            tree,
            announces,
            site,
            timeline,
            events,
            steps,
        } = parts;
        let facts = Facts {
            id: blueprint.id.clone(),
            labels: blueprint.labels,
            created: SystemTime::now(),
            uptime: Duration::ZERO,
            timeline,
            features: vm.features(),
        };
        let engine = Arc::new(Self {
            id: blueprint.id,
            face: SandboxFace::new(facts, SandboxState::Starting, events.clone()),
            events,
            steps,
            call_timeout: blueprint.call_timeout,
            tasks: Tasks::default(),
            agent,
            containers: Containers::default(),
            shares: Shares::new(tree),
            size: grow::Size::new(blueprint.size),
            disks: Disks::new(&blueprint.disks),
            networks,
            shared_process_ids: blueprint.shared_process_ids,
            said: std::sync::Mutex::default(),
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

    /// What handles show of it.
    pub(crate) fn face(&self) -> &Arc<SandboxFace> {
        &self.face
    }

    /// How long the agent may take to answer a call.
    pub(crate) fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    pub(crate) fn vm(&self) -> &dyn Vm {
        &*self.vm
    }

    pub(crate) fn containers(&self) -> &Containers {
        &self.containers
    }

    pub(crate) fn state(&self) -> SandboxState {
        self.face.state()
    }

    /// Takes a step; answers whether it made sense.
    pub(crate) fn step(&self, step: SandboxStep) -> bool {
        self.face.step(step)
    }

    /// Waits until the sandbox has ended, and nothing of it is left.
    pub(crate) async fn ended(&self) -> SandboxExit {
        self.face.ended().await
    }

    /// Says once in the sandbox's life that a field means nothing here.
    fn say_ignored(&self, container: &str, field: &'static str, why: &'static str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.insert(field) {
            log::info!(
                sandbox_id = self.id(), container_id = container, field = field;
                "ignored: {why}"
            );
        }
    }

    /// Notes how the sandbox ended; the first word counts.
    fn note_exit(&self, exit: SandboxExit) {
        self.face.note_exit(exit);
    }

    /// How far things have come, for tests.
    pub(crate) fn reach(&self, step: &'static str) {
        self.steps.reach(step);
    }

    /// Does something soon, unless the sandbox is given up.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(work);
    }

    /// Gives up: no task goes on, and the machine is killed as they end.
    pub(crate) fn abandon(&self) {
        self.tasks.abort_all();
        if !self.state().has_ended() {
            self.note_exit(SandboxExit::Stopped);
            self.step(SandboxStep::Stop);
            self.step(SandboxStep::Ended);
        }
    }
}
