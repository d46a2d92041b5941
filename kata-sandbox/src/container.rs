//! A container of a sandbox.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use oci_spec::runtime as oci;

use crate::copy;
use crate::engine::{ContainerRecord, Engine, Keeper, Streams};
use crate::error::{ErrorKind, Result};
use crate::exec::Exec;
use crate::exit::{Exit, Signal};
use crate::process::Process;
use crate::processes::ProcessInfo;
use crate::state::ContainerState;
use crate::stats::ContainerStats;

/// A container. Clones are the same container.
#[derive(Clone, Debug)]
pub struct Container {
    keeper: Arc<Keeper>,
    record: Arc<ContainerRecord>,
}

/// What there is to say of a container at once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContainerStatus {
    /// Its id.
    pub id: String,
    /// Its state.
    pub state: ContainerState,
    /// When it was made.
    pub created: SystemTime,
    /// Its first process's id in the guest, once that is known.
    pub pid: Option<u32>,
    /// How its first process ended, once it has.
    pub exit: Option<Exit>,
}

impl ContainerStatus {
    pub(crate) fn of(record: &ContainerRecord) -> Self {
        Self {
            id: record.id().to_owned(),
            state: record.state(),
            created: record.created(),
            pid: record.init().pid(),
            exit: record.init().exit(),
        }
    }
}

impl Container {
    pub(crate) fn new(keeper: Arc<Keeper>, record: Arc<ContainerRecord>) -> Self {
        Self { keeper, record }
    }

    fn engine(&self) -> &Arc<Engine> {
        self.keeper.engine()
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.record.id()
    }

    /// Its state now.
    #[must_use]
    pub fn state(&self) -> ContainerState {
        self.record.state()
    }

    /// What there is to say of it at once.
    #[must_use]
    pub fn status(&self) -> ContainerStatus {
        ContainerStatus::of(&self.record)
    }

    /// Starts its program. The process has the streams that
    /// [`ContainerSpec::stdio`](crate::ContainerSpec::stdio) asked for.
    ///
    /// # Errors
    /// `InvalidState` when it was started before; and what the agent says, such
    /// as that there is no such program.
    pub async fn start(&self) -> Result<Process> {
        let streams = self.engine().start_container(&self.record).await?;
        Ok(self.first_process(streams))
    }

    /// Its first process, which was started before; without its streams, which
    /// only [`Container::start`] gives.
    ///
    /// # Errors
    /// `InvalidState` when it has not been started.
    pub fn init(&self) -> Result<Process> {
        if self.state() == ContainerState::Created {
            let context = self
                .engine()
                .container_context("find process of", self.id());
            return Err(context.error(ErrorKind::InvalidState, "it has not been started"));
        }
        Ok(self.first_process(Streams::default()))
    }

    fn first_process(&self, streams: Streams) -> Process {
        let (keeper, record) = (Arc::clone(&self.keeper), Arc::clone(&self.record));
        let process = Arc::clone(self.record.init());
        Process::new(keeper, record, process, streams)
    }

    /// Describes a further process in it, which begins with its environment,
    /// directory, user and privileges.
    pub fn exec(&self, program: impl Into<String>) -> Exec {
        Exec::new(
            Arc::clone(&self.keeper),
            Arc::clone(&self.record),
            program.into(),
        )
    }

    /// Signals its first process.
    ///
    /// # Errors
    /// `InvalidConfig` when that is no signal, and what the agent says.
    pub async fn kill(&self, signal: Signal) -> Result<()> {
        self.record.send_signal(self.engine(), signal, false).await
    }

    /// Signals every process in it.
    ///
    /// # Errors
    /// As [`Container::kill`].
    pub async fn kill_all(&self, signal: Signal) -> Result<()> {
        self.record.send_signal(self.engine(), signal, true).await
    }

    /// Makes its processes stand still. Idempotent.
    ///
    /// # Errors
    /// `InvalidState` when it does not run.
    pub async fn pause(&self) -> Result<()> {
        self.engine().set_container_paused(&self.record, true).await
    }

    /// Lets them go on. Idempotent.
    ///
    /// # Errors
    /// `InvalidState` when it does not run.
    pub async fn resume(&self) -> Result<()> {
        self.engine()
            .set_container_paused(&self.record, false)
            .await
    }

    /// Changes its limits.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn update(&self, resources: &oci::LinuxResources) -> Result<()> {
        self.engine()
            .update_container(&self.record, resources)
            .await
    }

    /// What it uses.
    ///
    /// # Errors
    /// When its sandbox does not run.
    pub async fn stats(&self) -> Result<ContainerStats> {
        self.engine().container_stats(&self.record).await
    }

    /// The processes it has now, by their id in the guest; at most 16384.
    ///
    /// # Errors
    /// `Unsupported` when the guest's agent is not this project's.
    pub async fn processes(&self) -> Result<Vec<ProcessInfo>> {
        self.engine().container_processes(&self.record).await
    }

    /// Copies a file or directory of the host into a directory of the
    /// container, under its own name. Answers how many bytes travelled.
    ///
    /// # Errors
    /// When `host` cannot be read, or `guest` is no directory; `Unsupported`
    /// with a foreign agent.
    pub async fn copy_in(&self, host: impl AsRef<Path>, guest: impl AsRef<Path>) -> Result<u64> {
        copy::into(self.engine(), self.id(), host.as_ref(), guest.as_ref()).await
    }

    /// Copies a file or directory of the container into a directory of the
    /// host, under its own name; nothing there is replaced. Answers how many
    /// bytes travelled. Devices, sockets and owners are left out: what comes
    /// is the guest's word, and stays below `host` whatever it says.
    ///
    /// # Errors
    /// `AlreadyExists` when there is something of that name; `NotFound`; and
    /// `Unsupported` with a foreign agent.
    pub async fn copy_out(&self, guest: impl AsRef<Path>, host: impl AsRef<Path>) -> Result<u64> {
        copy::out_of(self.engine(), self.id(), guest.as_ref(), host.as_ref()).await
    }

    /// Waits until its first process has ended.
    ///
    /// # Errors
    /// `InvalidState` when it has not been started.
    pub async fn wait(&self) -> Result<Exit> {
        self.init()?.wait().await
    }

    /// Kills what runs in it and takes it away. Answers how its first process
    /// ended, or `None` when it was never started. Idempotent.
    ///
    /// # Errors
    /// What the agent says; it is still there then.
    pub async fn delete(self) -> Result<Option<Exit>> {
        self.engine().delete_container(&self.record).await
    }
}
