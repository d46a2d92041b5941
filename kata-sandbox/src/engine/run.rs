//! Starting processes: a container's first, and those executed in it.

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::container::ContainerRecord;
use super::create::with_terminal;
use super::process::{self, ProcessRecord};
use super::streams::{self, Ends, Streams};
use super::tie::{self, Tie};
use crate::error::{ErrorKind, Result};
use crate::event::Event;
use crate::exit::{Exit, Signal};
use crate::home::operation::Execute;
use crate::spec;
use crate::state::{ContainerState, ContainerStep};
use kata_protocol::agent::{ExecProcessRequest, StartContainerRequest};
use kata_protocol::oci as wire;

/// How long after a process's end its last output may take to be in its log.
const LAST_LINES: Duration = Duration::from_secs(1);

type ExecResult = (Arc<ContainerRecord>, Arc<ProcessRecord>, Streams);

impl Engine {
    /// Starts a container's program.
    pub(crate) async fn start_container(
        self: &Arc<Self>,
        record: &Arc<ContainerRecord>,
    ) -> Result<Streams> {
        let context = self.container_context("start container", record.id());
        let (engine, record, own) = (Arc::clone(self), Arc::clone(record), context.clone());
        let work = async move {
            let changing = record.change().await;
            if record.state() != ContainerState::Created {
                return record.refuse(&own);
            }
            let request = StartContainerRequest {
                container_id: record.id().to_owned(),
            };
            let agent = &engine.agent;
            let call = agent.calls().start_container(&request, agent.deadline());
            let started = engine.call(&own, call).await?;
            engine.reach("container started");
            record.init().note_pid(started.pid);
            record.step(&engine, ContainerStep::Start);
            let hooks = Arc::clone(&record);
            let mut streams = record.take_streams().unwrap_or_default();
            streams.start_relays(&engine);
            engine.tasks.spawn(watch_init(
                Arc::clone(&engine),
                Arc::clone(&record),
                streams.take_ends(),
            ));
            // Others need not wait for hooks, which may take for ever.
            drop(changing);
            hooks.hooks().poststart(&own).await;
            Ok(streams)
        };
        // It was asked to run, and runs: nothing to undo.
        self.complete(&context, work, |_, _| async {}).await
    }

    /// Takes the streams of a container's first process before its start.
    pub(crate) async fn attach_container(&self, record: &ContainerRecord) -> Result<Streams> {
        let context = self.container_context("attach to container", record.id());
        let _changing = record.change().await;
        if record.state() != ContainerState::Created {
            return record.refuse(&context);
        }
        record.attach().ok_or_else(|| {
            let reason = "its streams were taken before";
            context.error(ErrorKind::InvalidState, reason)
        })
    }

    /// Executes a further process in a container.
    pub(crate) async fn exec(
        self: &Arc<Self>,
        record: &Arc<ContainerRecord>,
        execute: Execute,
    ) -> Result<(Arc<ProcessRecord>, Streams)> {
        let context = self.container_context("execute in container", record.id());
        let Execute {
            process,
            user,
            stdio: mode,
            tied_to,
            ..
        } = execute;
        spec::check_process(&process, &context)?;
        let tie = Tie::to(tied_to, &context)?;
        if !matches!(
            record.state(),
            ContainerState::Created | ContainerState::Running
        ) {
            return record.refuse(&context);
        }
        let (engine, record, own) = (Arc::clone(self), Arc::clone(record), context.clone());
        let work = async move {
            let exec_id = record.name_exec();
            let mut streams = streams::open(&engine, &mode, record.id(), &exec_id, &own).await?;
            let [stdin_port, stdout_port, stderr_port] = streams.ports;
            let request = ExecProcessRequest {
                container_id: record.id().to_owned(),
                exec_id: exec_id.clone(),
                string_user: user.and_then(|user| user.to_look_up()),
                process: Some(wire::process(&with_terminal(*process, &mode))),
                stdin_port,
                stdout_port,
                stderr_port,
            };
            let agent = &engine.agent;
            let call = agent.calls().exec_process(&request, agent.deadline());
            let started = match engine.call(&own, call).await {
                Err(error) if error.kind() == ErrorKind::Timeout => {
                    // It may run all the same: better kill it in vain.
                    drop(record.signal_process(&engine, &exec_id, Signal::KILL).await);
                    return Err(error);
                }
                answer => answer?,
            };
            let terminal = streams::terminal(&mode).is_some();
            let process = Arc::new(ProcessRecord::new(exec_id, terminal));
            process.note_pid(started.pid);
            engine.reach("process executed");
            record.note_executed(&process);
            tie::process(&engine, &record, &process, tie);
            streams.start_relays(&engine);
            engine.tasks.spawn(watch_exec(
                Arc::clone(&engine),
                Arc::clone(&record),
                Arc::clone(&process),
                streams.take_ends(),
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
}

async fn watch_init(engine: Arc<Engine>, record: Arc<ContainerRecord>, ends: Ends) {
    let exit = collect(&engine, &record, record.init(), ends).await;
    record.init().note_exit(exit);
    record.step(&engine, ContainerStep::Exited);
    engine.events.send(&Event::ContainerExited {
        sandbox: engine.id.clone(),
        container: record.id().to_owned(),
        exit,
    });
}

async fn watch_exec(
    engine: Arc<Engine>,
    record: Arc<ContainerRecord>,
    process: Arc<ProcessRecord>,
    ends: Ends,
) {
    let exit = collect(&engine, &record, &process, ends).await;
    process.note_exit(exit);
}

/// Waits for the process to end, and for what it wrote to be where it belongs.
async fn collect(
    engine: &Engine,
    record: &ContainerRecord,
    process: &ProcessRecord,
    ends: Ends,
) -> Exit {
    // An agent that is asked for output forgets it with the status: output first.
    for end in ends.pulled {
        tokio::select! {
            _ = end => {} // nothing is ever sent: its sender goes at the end
            () = record.is_given_up() => break,
            _ = engine.ended() => break,
        }
    }
    let exit = process::collect(engine, record, process).await;
    let written = async {
        for end in ends.logged {
            drop(end.await); // nor here
        }
    };
    // A process that it left behind may hold its output open for ever.
    drop(tokio::time::timeout(LAST_LINES, written).await);
    exit
}
