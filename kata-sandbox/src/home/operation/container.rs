//! What can be asked of a container and its processes.

use std::sync::Arc;

use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};

use super::{Operation, find};
use crate::engine::{Engine, Streams};
use crate::error::{ErrorKind, Result};
use crate::exit::{Exit, Signal};
use crate::home::{ContainerFace, ContainerKey, Executed, ProcessFace};
use crate::processes::ProcessInfo;
use crate::spec::{ContainerSpec, GuestUser};
use crate::stats::ContainerStats;
use crate::stdio::{PtySize, StdioMode};

/// Makes a container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Create {
    pub(crate) id: String,
    pub(crate) spec: Box<ContainerSpec>,
}

impl Operation for Create {
    const NAME: &'static str = "create container";

    type Reply = Arc<ContainerFace>;

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        let record = engine.create_container(&self.id, *self.spec).await?;
        Ok(Arc::clone(record.face()))
    }
}

/// Takes a container away.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Delete {
    pub(crate) container: ContainerKey,
}

impl Operation for Delete {
    const NAME: &'static str = "delete container";

    type Reply = Option<Exit>;

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        match engine.containers().find(&self.container) {
            Some(record) => engine.delete_container(&record).await,
            None => Ok(None),
        }
    }
}

/// Starts a container's program.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) container: ContainerKey,
}

impl Operation for Start {
    const NAME: &'static str = "start container";

    type Reply = Streams;

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        let record = find(engine, &self.container, Self::NAME)?;
        engine.start_container(&record).await
    }
}

/// Takes the streams of a container's first process, before its start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Attach {
    pub(crate) container: ContainerKey,
}

impl Operation for Attach {
    const NAME: &'static str = "attach to container";

    type Reply = Streams;

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        let record = find(engine, &self.container, Self::NAME)?;
        engine.attach_container(&record).await
    }
}

/// Executes a further process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Execute {
    pub(crate) container: ContainerKey,
    pub(crate) process: Box<oci::Process>,
    pub(crate) user: Option<GuestUser>,
    pub(crate) stdio: StdioMode,
    /// A process of the host that it ends with.
    #[serde(default)]
    pub(crate) tied_to: Option<u32>,
}

impl Operation for Execute {
    const NAME: &'static str = "execute in container";

    type Reply = Executed;

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        let record = find(engine, &self.container, Self::NAME)?;
        let container = self.container.clone();
        let (process, streams) = engine.exec(&record, self).await?;
        Ok(Executed {
            container,
            process,
            streams,
        })
    }
}

/// Finds a process that was executed before.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Find {
    pub(crate) container: ContainerKey,
    pub(crate) exec_id: String,
}

impl Operation for Find {
    const NAME: &'static str = "find process of";

    type Reply = (ContainerKey, Arc<ProcessFace>);

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        let record = find(engine, &self.container, Self::NAME)?;
        let process = record.executed(&self.exec_id).ok_or_else(|| {
            let context = engine.container_context(Self::NAME, &self.container.id);
            let shown = crate::id::shown(&self.exec_id);
            let reason = format!("no process {shown} is known of it");
            context.error(ErrorKind::NotFound, reason)
        })?;
        Ok((self.container, process))
    }
}

/// Signals a container's first process, all of its processes, or one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SendSignal {
    pub(crate) container: ContainerKey,
    pub(crate) to: Recipient,
    pub(crate) signal: Signal,
}

/// Who gets a signal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Recipient {
    /// The first process.
    First,
    /// Every process.
    All,
    /// One that was executed.
    Executed(String),
}

impl Operation for SendSignal {
    const NAME: &'static str = "signal";

    type Reply = ();

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        let (record, signal) = (find(engine, &self.container, Self::NAME)?, self.signal);
        match self.to {
            Recipient::First => record.send_signal(engine, signal, false).await,
            Recipient::All => record.send_signal(engine, signal, true).await,
            Recipient::Executed(id) => record.signal_process(engine, &id, signal).await,
        }
    }
}

/// Makes a container's processes stand still, or go on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SetContainerPaused {
    pub(crate) container: ContainerKey,
    pub(crate) paused: bool,
}

impl Operation for SetContainerPaused {
    const NAME: &'static str = "pause or resume container";

    type Reply = ();

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        let record = find(engine, &self.container, Self::NAME)?;
        engine.set_container_paused(&record, self.paused).await
    }
}

/// Tells a process's terminal its size.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ResizeTerminal {
    pub(crate) container: ContainerKey,
    /// Empty for the first process.
    pub(crate) exec_id: String,
    pub(crate) terminal: bool,
    pub(crate) size: PtySize,
}

impl Operation for ResizeTerminal {
    const NAME: &'static str = "resize terminal";

    type Reply = ();

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        let record = find(engine, &self.container, Self::NAME)?;
        let process = ProcessFace::new(self.exec_id, self.terminal);
        engine.resize_terminal(&record, &process, self.size).await
    }
}

/// Changes a container's limits.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Update {
    pub(crate) container: ContainerKey,
    pub(crate) resources: Box<oci::LinuxResources>,
}

impl Operation for Update {
    const NAME: &'static str = "update container";

    type Reply = ();

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        let record = find(engine, &self.container, Self::NAME)?;
        engine.update_container(&record, &self.resources).await
    }
}

/// What a container uses.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ContainerUsage {
    pub(crate) container: ContainerKey,
}

impl Operation for ContainerUsage {
    const NAME: &'static str = "take stats of container";

    type Reply = ContainerStats;

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        let record = find(engine, &self.container, Self::NAME)?;
        engine.container_stats(&record).await
    }
}

/// The processes of a container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Processes {
    pub(crate) container: ContainerKey,
}

impl Operation for Processes {
    const NAME: &'static str = "list processes of container";

    type Reply = Vec<ProcessInfo>;

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        let record = find(engine, &self.container, Self::NAME)?;
        engine.container_processes(&record).await
    }
}
