//! A container, as the engine knows it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use kata_protocol::agent::{
    CreateContainerRequest, ExecProcessRequest, PauseContainerRequest, RemoveContainerRequest,
    ResumeContainerRequest, SignalProcessRequest, StartContainerRequest, TtyWinResizeRequest,
    UpdateContainerRequest,
};
use kata_protocol::oci as wire;
use oci_spec::runtime as oci;
use tokio::sync::watch;

use super::Engine;
use super::containers::Slot;
use super::process::{self, ProcessRecord};
use super::shares::Share;
use super::streams::{self, Streams};
use super::translate::{Translated, translate};
use crate::error::{Context, ErrorKind, Result};
use crate::event::Event;
use crate::exit::{Exit, Signal};
use crate::spec::{self, ContainerSpec, GuestUser};
use crate::state::{ContainerState, ContainerStep};
use crate::stdio::{PtySize, StdioMode};

/// A container that there is in the guest.
#[derive(Debug)]
pub(crate) struct ContainerRecord {
    id: String,
    created: SystemTime,
    /// What processes executed in it begin with.
    process: oci::Process,
    state: watch::Sender<ContainerState>,
    init: Arc<ProcessRecord>,
    /// The first process's streams, until it is started.
    streams: Mutex<Option<Streams>>,
    /// What it has of the host, until it is deleted.
    shares: Mutex<Vec<Share>>,
    oom: AtomicBool,
    next_exec: AtomicU64,
    /// One change of state at a time; other containers go on meanwhile.
    changing: tokio::sync::Mutex<()>,
}

impl ContainerRecord {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn created(&self) -> SystemTime {
        self.created
    }

    pub(crate) fn state(&self) -> ContainerState {
        *self.state.borrow()
    }

    pub(crate) fn init(&self) -> &Arc<ProcessRecord> {
        &self.init
    }

    /// What processes executed in it begin with.
    pub(crate) fn process(&self) -> &oci::Process {
        &self.process
    }

    /// Whether its first process has been started and has not ended.
    pub(super) fn is_live(&self) -> bool {
        matches!(
            self.state(),
            ContainerState::Running | ContainerState::Paused
        )
    }

    pub(super) fn note_oom(&self) {
        self.oom.store(true, Ordering::Relaxed);
    }

    pub(super) fn ran_out_of_memory(&self) -> bool {
        self.oom.load(Ordering::Relaxed)
    }

    pub(super) fn release_shares(&self) {
        let shares =
            std::mem::take(&mut *self.shares.lock().unwrap_or_else(PoisonError::into_inner));
        drop(shares);
    }

    pub(super) async fn change(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.changing.lock().await
    }

    fn take_streams(&self) -> Option<Streams> {
        self.streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Takes a step; answers whether it made sense.
    pub(super) fn step(&self, engine: &Engine, step: ContainerStep) -> bool {
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
            engine.events.send(&Event::ContainerState {
                sandbox: engine.id.clone(),
                container: self.id.clone(),
                state: self.state(),
            });
        }
        allowed
    }

    fn refuse<T>(&self, context: &Context) -> Result<T> {
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
        let exec_id = if all { "" } else { &*self.id };
        self.signal_process(engine, exec_id, signal).await
    }

    /// Signals a process executed in it.
    pub(crate) async fn signal_process(
        &self,
        engine: &Engine,
        exec_id: &str,
        signal: Signal,
    ) -> Result<()> {
        let context = engine.container_context("signal", &self.id);
        let Some(number) = signal.number() else {
            return Err(context.invalid(format!("{} is no signal", signal.0)));
        };
        let request = SignalProcessRequest {
            container_id: self.id.clone(),
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

impl Engine {
    /// Makes a container, up to the point where its program could start.
    pub(crate) async fn create_container(
        self: &Arc<Self>,
        id: &str,
        spec: ContainerSpec,
    ) -> Result<Arc<ContainerRecord>> {
        let context = self.container_context("create container", id);
        crate::id::check(id, &context)?;
        self.require_running(&context)?;
        spec::check(&spec, &context)?;
        let slot = self.containers.reserve(id).ok_or_else(|| {
            context.error(
                ErrorKind::AlreadyExists,
                "this sandbox has a container of that id",
            )
        })?;
        let (engine, id, own) = (Arc::clone(self), id.to_owned(), context.clone());
        let work = async move { create(&engine, id, spec, slot, &own).await };
        self.complete(&context, work, |engine, record| async move {
            if let Err(error) = engine.delete_container(&record).await {
                log::warn!(sandbox_id = engine.id(), error:%; "left behind");
            }
        })
        .await
    }

    /// Starts a container's program.
    pub(crate) async fn start_container(
        self: &Arc<Self>,
        record: &Arc<ContainerRecord>,
    ) -> Result<Streams> {
        let context = self.container_context("start container", &record.id);
        let (engine, record, own) = (Arc::clone(self), Arc::clone(record), context.clone());
        let work = async move {
            let _changing = record.change().await;
            if record.state() != ContainerState::Created {
                return record.refuse(&own);
            }
            let request = StartContainerRequest {
                container_id: record.id.clone(),
            };
            let agent = &engine.agent;
            let call = agent.calls().start_container(&request, agent.deadline());
            let started = engine.call(&own, call).await?;
            record.init.note_pid(started.pid);
            record.step(&engine, ContainerStep::Start);
            let mut streams = record.take_streams().unwrap_or_default();
            streams.start_relays(&engine);
            engine.tasks.spawn(watch_init(
                Arc::clone(&engine),
                Arc::clone(&record),
                std::mem::take(&mut streams.pulled),
            ));
            Ok(streams)
        };
        // It was asked to run, and runs: nothing to undo.
        self.complete(&context, work, |_, _| async {}).await
    }

    /// Executes a further process in a container.
    pub(crate) async fn exec(
        self: &Arc<Self>,
        record: &Arc<ContainerRecord>,
        process: oci::Process,
        user: Option<GuestUser>,
        mode: StdioMode,
    ) -> Result<(Arc<ProcessRecord>, Streams)> {
        let context = self.container_context("execute in container", &record.id);
        spec::check_process(&process, &context)?;
        if record.state() != ContainerState::Running {
            return record.refuse(&context);
        }
        let (engine, record, own) = (Arc::clone(self), Arc::clone(record), context.clone());
        let work = async move {
            let number = record.next_exec.fetch_add(1, Ordering::Relaxed);
            let exec_id = format!("exec-{number}");
            let mut streams = streams::open(&engine, &mode, &record.id, &exec_id, &own).await?;
            let [stdin_port, stdout_port, stderr_port] = streams.ports;
            let request = ExecProcessRequest {
                container_id: record.id.clone(),
                exec_id: exec_id.clone(),
                string_user: user.and_then(|user| user.to_look_up()),
                process: Some(wire::process(&with_terminal(process, &mode))),
                stdin_port,
                stdout_port,
                stderr_port,
            };
            let agent = &engine.agent;
            let call = agent.calls().exec_process(&request, agent.deadline());
            let started = engine.call(&own, call).await?;
            let terminal = streams::terminal(&mode).is_some();
            let process = Arc::new(ProcessRecord::new(exec_id, terminal));
            process.note_pid(started.pid);
            streams.start_relays(&engine);
            let pulled = std::mem::take(&mut streams.pulled);
            engine.tasks.spawn(watch_exec(
                Arc::clone(&engine),
                Arc::clone(&record),
                Arc::clone(&process),
                pulled,
            ));
            Ok((record, process, streams))
        };
        let undo = |engine: Arc<Self>, (record, process, _streams): ExecResult| async move {
            // Nobody has it: it may have ended by itself, too.
            drop(
                record
                    .signal_process(&engine, process.exec_id(), Signal::KILL)
                    .await,
            );
        };
        let (_, process, streams) = self.complete(&context, work, undo).await?;
        Ok((process, streams))
    }

    /// Freezes or thaws a container's processes.
    pub(crate) async fn set_container_paused(
        self: &Arc<Self>,
        record: &Arc<ContainerRecord>,
        paused: bool,
    ) -> Result<()> {
        let name = if paused {
            "pause container"
        } else {
            "resume container"
        };
        let context = self.container_context(name, &record.id);
        let (engine, record, own) = (Arc::clone(self), Arc::clone(record), context.clone());
        let work = async move {
            let _changing = record.change().await;
            let step = if paused {
                ContainerStep::Pause
            } else {
                ContainerStep::Resume
            };
            if record.state().after(step).is_none() {
                return record.refuse(&own);
            }
            let (container_id, agent) = (record.id.clone(), &engine.agent);
            let (calls, deadline) = (agent.calls(), agent.deadline());
            if paused {
                let request = PauseContainerRequest { container_id };
                engine
                    .call(&own, calls.pause_container(&request, deadline))
                    .await?;
            } else {
                let request = ResumeContainerRequest { container_id };
                engine
                    .call(&own, calls.resume_container(&request, deadline))
                    .await?;
            }
            record.step(&engine, step);
            Ok(())
        };
        self.complete(&context, work, |_, ()| async {}).await
    }

    /// Changes a container's limits.
    pub(crate) async fn update_container(
        &self,
        record: &ContainerRecord,
        resources: &oci::LinuxResources,
    ) -> Result<()> {
        let context = self.container_context("update container", &record.id);
        let request = UpdateContainerRequest {
            container_id: record.id.clone(),
            resources: Some(wire::resources(resources)),
        };
        let call = self
            .agent
            .calls()
            .update_container(&request, self.agent.deadline());
        self.call(&context, call).await
    }

    /// Tells a process's terminal its size.
    pub(crate) async fn resize_terminal(
        &self,
        record: &ContainerRecord,
        process: &ProcessRecord,
        size: PtySize,
    ) -> Result<()> {
        let context = self.container_context("resize terminal", &record.id);
        if !process.terminal {
            return Err(context.error(ErrorKind::InvalidState, "the process has no terminal"));
        }
        let request = TtyWinResizeRequest {
            container_id: record.id.clone(),
            exec_id: process.exec_id().to_owned(),
            row: size.rows.into(),
            column: size.cols.into(),
        };
        let call = self
            .agent
            .calls()
            .tty_win_resize(&request, self.agent.deadline());
        self.call(&context, call).await
    }
}

type ExecResult = (Arc<ContainerRecord>, Arc<ProcessRecord>, Streams);

async fn create(
    engine: &Arc<Engine>,
    id: String,
    mut spec: ContainerSpec,
    slot: Slot,
    context: &Context,
) -> Result<Arc<ContainerRecord>> {
    let process = with_terminal(std::mem::take(spec.process()), &spec.stdio);
    spec.spec.set_process(Some(process.clone()));
    let mode = spec.stdio.clone();
    let user = spec.user.as_ref().and_then(GuestUser::to_look_up);
    let streams = streams::open(engine, &mode, &id, "", context);
    let shared = {
        let (engine, id, context) = (Arc::clone(engine), id.clone(), context.clone());
        tokio::task::spawn_blocking(move || translate(&engine.shares, &id, &spec, &context))
    };
    let (streams, shared) = tokio::join!(streams, shared);
    let (streams, translated) = (streams?, shared.map_err(|e| context.join(e))??);
    let Translated {
        spec,
        shares,
        storages,
    } = translated;
    let [stdin_port, stdout_port, stderr_port] = streams.ports;
    let request = CreateContainerRequest {
        container_id: id.clone(),
        exec_id: id.clone(),
        string_user: user,
        storages,
        oci: Some(wire::spec(&spec)),
        stdin_port,
        stdout_port,
        stderr_port,
        ..CreateContainerRequest::default()
    };
    let agent = &engine.agent;
    let call = agent.calls().create_container(&request, agent.deadline());
    if let Err(error) = engine.call(context, call).await {
        if error.kind() == ErrorKind::Timeout {
            // It may have been made since: better try in vain.
            let request = RemoveContainerRequest {
                container_id: id,
                timeout: 0,
            };
            drop(
                agent
                    .calls()
                    .remove_container(&request, agent.deadline())
                    .await,
            );
        }
        return Err(error);
    }
    let record = Arc::new(ContainerRecord {
        init: Arc::new(ProcessRecord::new(
            String::new(),
            streams::terminal(&mode).is_some(),
        )),
        id,
        created: SystemTime::now(),
        process,
        state: watch::Sender::new(ContainerState::Creating),
        streams: Mutex::new(Some(streams)),
        shares: Mutex::new(shares),
        oom: AtomicBool::new(false),
        next_exec: AtomicU64::new(0),
        changing: tokio::sync::Mutex::new(()),
    });
    slot.enter(&record);
    record.step(engine, ContainerStep::Created);
    Ok(record)
}

fn with_terminal(mut process: oci::Process, mode: &StdioMode) -> oci::Process {
    let size = streams::terminal(mode);
    process.set_terminal(Some(size.is_some()));
    let console = size.map(|size| {
        let sized = oci::BoxBuilder::default()
            .height(size.rows)
            .width(size.cols)
            .build();
        sized.expect("every field has a default")
    });
    process.set_console_size(console);
    process
}

type Pulled = Vec<tokio::sync::oneshot::Receiver<()>>;

async fn watch_init(engine: Arc<Engine>, record: Arc<ContainerRecord>, pulled: Pulled) {
    drain(&engine, pulled).await;
    let exit = process::collect(&engine, &record, &record.init).await;
    record.init.note_exit(exit);
    record.step(&engine, ContainerStep::Exited);
    engine.events.send(&Event::ContainerExited {
        sandbox: engine.id.clone(),
        container: record.id.clone(),
        exit,
    });
}

async fn watch_exec(
    engine: Arc<Engine>,
    record: Arc<ContainerRecord>,
    process: Arc<ProcessRecord>,
    pulled: Pulled,
) {
    drain(&engine, pulled).await;
    let exit: Exit = process::collect(&engine, &record, &process).await;
    process.note_exit(exit);
}

/// An agent that is asked for output forgets it with the status: output first.
async fn drain(engine: &Engine, pulled: Pulled) {
    for end in pulled {
        tokio::select! {
            _ = end => {} // nothing is ever sent: its sender goes at the end
            _ = engine.ended() => return,
        }
    }
}
