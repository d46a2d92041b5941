//! A container, as the engine knows it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use kata_protocol::agent::SignalProcessRequest;
use oci_spec::runtime as oci;
use tokio::sync::watch;

use super::Engine;
use super::hooks::HostHooks;
use super::process::ProcessRecord;
use super::shares::Share;
use super::streams::Streams;
use crate::error::{Context, ErrorKind, Result};
use crate::event::Event;
use crate::exit::Signal;
use crate::home::{ContainerFace, ContainerKey};
use crate::sizing::Limits;
use crate::state::{ContainerState, ContainerStep};

/// How many processes executed in a container are known at once, those that
/// have ended among them.
const MOST_EXECUTED: usize = 1024;

/// A container that there is in the guest.
#[derive(Debug)]
pub(crate) struct ContainerRecord {
    face: Arc<ContainerFace>,
    /// The first process's streams, until it is started.
    streams: Mutex<Option<Streams>>,
    /// What it has of the host, until it is deleted.
    shares: Mutex<Vec<Share>>,
    /// What it is limited to, for the machine's size.
    pub(super) limits: Mutex<Limits>,
    /// Serial numbers of disks that it has, until it is deleted.
    disks: Mutex<Vec<String>>,
    /// Programs of the host that hear of its start and end.
    hooks: HostHooks,
    oom: AtomicBool,
    started: AtomicBool,
    /// Whether nobody will read what its processes wrote.
    given_up: watch::Sender<bool>,
    next_exec: AtomicU64,
    executed: Mutex<VecDeque<Arc<ProcessRecord>>>,
    /// One change of state at a time; other containers go on meanwhile.
    changing: tokio::sync::Mutex<()>,
}

/// What a container has of the host.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) shares: Vec<Share>,
    pub(super) limits: Limits,
    /// Serial numbers.
    pub(super) disks: Vec<String>,
    pub(super) hooks: HostHooks,
}

impl ContainerRecord {
    /// One that is being made.
    pub(super) fn new(
        key: ContainerKey,
        process: oci::Process,
        terminal: bool,
        streams: Streams,
        held: Held,
    ) -> Arc<Self> {
        let Held {
            shares,
            limits,
            disks,
            hooks,
        } = held;
        Arc::new(Self {
            face: ContainerFace::new(key, SystemTime::now(), process, terminal),
            streams: Mutex::new(Some(streams)),
            shares: Mutex::new(shares),
            limits: Mutex::new(limits),
            disks: Mutex::new(disks),
            hooks,
            oom: AtomicBool::new(false),
            started: AtomicBool::new(false),
            given_up: watch::Sender::new(false),
            next_exec: AtomicU64::new(0),
            executed: Mutex::default(),
            changing: tokio::sync::Mutex::new(()),
        })
    }

    /// What handles show of it.
    pub(crate) fn face(&self) -> &Arc<ContainerFace> {
        &self.face
    }

    pub(crate) fn id(&self) -> &str {
        self.face.id()
    }

    pub(crate) fn state(&self) -> ContainerState {
        self.face.state()
    }

    pub(crate) fn init(&self) -> &Arc<ProcessRecord> {
        &self.face.init
    }

    pub(super) fn hooks(&self) -> &HostHooks {
        &self.hooks
    }

    /// Whether its first process has been started and has not ended.
    pub(super) fn is_live(&self) -> bool {
        match self.state() {
            ContainerState::Running => true,
            ContainerState::Paused => self.was_started(),
            _ => false,
        }
    }

    /// Whether its first process has been started, be it that it has ended.
    pub(super) fn was_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    pub(super) fn note_oom(&self) {
        self.oom.store(true, Ordering::Relaxed);
    }

    pub(super) fn ran_out_of_memory(&self) -> bool {
        self.oom.load(Ordering::Relaxed)
    }

    /// What its processes wrote and nobody has read is not waited for any more.
    pub(super) fn give_up(&self) {
        self.given_up.send_replace(true);
    }

    pub(super) async fn is_given_up(&self) {
        // The sender is in `self`: it cannot be gone.
        drop(self.given_up.subscribe().wait_for(|up| *up).await);
    }

    pub(super) fn release_shares(&self) {
        let shares =
            std::mem::take(&mut *self.shares.lock().unwrap_or_else(PoisonError::into_inner));
        drop(shares);
    }

    pub(super) fn take_disks(&self) -> Vec<String> {
        std::mem::take(&mut *self.disks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) async fn change(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.changing.lock().await
    }

    /// A name for a process executed in it, that no other has had.
    pub(super) fn name_exec(&self) -> String {
        let number = self.next_exec.fetch_add(1, Ordering::Relaxed);
        format!("exec-{number}")
    }

    /// The first process's streams, for somebody who need not start it; once.
    pub(super) fn attach(&self) -> Option<Streams> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.as_mut()?.take()
    }

    /// Notes a process executed in it. The oldest that have ended are
    /// forgotten where there are very many.
    pub(super) fn note_executed(&self, process: &Arc<ProcessRecord>) {
        let mut executed = self.executed.lock().unwrap_or_else(PoisonError::into_inner);
        if executed.len() >= MOST_EXECUTED
            && let Some(oldest) = executed.iter().position(|it| it.exit().is_some())
        {
            executed.remove(oldest);
        }
        executed.push_back(Arc::clone(process));
    }

    /// A process executed in it, that runs or has ended.
    pub(crate) fn executed(&self, exec_id: &str) -> Option<Arc<ProcessRecord>> {
        let executed = self.executed.lock().unwrap_or_else(PoisonError::into_inner);
        executed
            .iter()
            .find(|process| process.exec_id() == exec_id)
            .cloned()
    }

    pub(super) fn take_streams(&self) -> Option<Streams> {
        self.streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Takes a step; answers whether it made sense.
    pub(super) fn step(&self, engine: &Engine, step: ContainerStep) -> bool {
        if step == ContainerStep::Start {
            self.started.store(true, Ordering::Release);
        }
        let mut allowed = false;
        let changed = self
            .face
            .state
            .send_if_modified(|state| match state.after(step) {
                Some(next) => {
                    allowed = true;
                    std::mem::replace(state, next) != next
                }
                None => false,
            });
        if changed {
            engine.events.send(&Event::ContainerState {
                sandbox: engine.id().to_owned(),
                container: self.id().to_owned(),
                state: self.state(),
            });
        }
        allowed
    }

    pub(super) fn refuse<T>(&self, context: &Context) -> Result<T> {
        let reason = format!("the container is {}", self.state());
        Err(context.error(ErrorKind::InvalidState, reason))
    }

    /// Signals its first process, or all of its processes.
    pub(crate) async fn send_signal(
        &self,
        engine: &Engine,
        signal: Signal,
        all: bool,
    ) -> Result<()> {
        // An empty name means all; the first process has the container's.
        let exec_id = if all { "" } else { self.id() };
        self.signal_process(engine, exec_id, signal).await
    }

    /// Signals a process executed in it.
    pub(crate) async fn signal_process(
        &self,
        engine: &Engine,
        exec_id: &str,
        signal: Signal,
    ) -> Result<()> {
        let context = engine.container_context("signal", self.id());
        let Some(number) = signal.number() else {
            return Err(context.invalid(format!("{} is no signal", signal.0)));
        };
        let request = SignalProcessRequest {
            container_id: self.id().to_owned(),
            exec_id: exec_id.to_owned(),
            signal: number,
        };
        let agent = &engine.agent;
        let answer = agent
            .calls()
            .signal_process(&request, agent.deadline())
            .await;
        engine.explain(&context, answer)
    }
}
