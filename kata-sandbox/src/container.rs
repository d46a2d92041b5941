//! A container of a sandbox.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use oci_spec::runtime as oci;

use crate::copy;
use crate::engine::Streams;
use crate::error::{ErrorKind, Result};
use crate::exec::Exec;
use crate::exit::{Exit, Signal};
use crate::home::operation::{
    Attach, ContainerUsage, Delete, Find, Processes, Recipient, SendSignal, SetContainerPaused,
    Start, Update,
};
use crate::home::{ContainerFace, ContainerKey, Home};
use crate::process::{Process, ProcessControl};
use crate::processes::ProcessInfo;
use crate::state::ContainerState;
use crate::stats::ContainerStats;

/// A container. Clones are the same container.
#[derive(Clone, Debug)]
pub struct Container {
    home: Arc<Home>,
    face: Arc<ContainerFace>,
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
    pub(crate) fn of(face: &ContainerFace) -> Self {
        Self {
            id: face.id().to_owned(),
            state: face.state(),
            created: face.created,
            pid: face.init.pid(),
            exit: face.init.exit(),
        }
    }
}

impl Container {
    pub(crate) fn new(home: Arc<Home>, face: Arc<ContainerFace>) -> Self {
        Self { home, face }
    }

    fn key(&self) -> ContainerKey {
        self.face.key.clone()
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.face.id()
    }

    /// Its state now.
    #[must_use]
    pub fn state(&self) -> ContainerState {
        self.face.state()
    }

    /// What there is to say of it at once.
    #[must_use]
    pub fn status(&self) -> ContainerStatus {
        ContainerStatus::of(&self.face)
    }

    /// Starts its program. The process has the streams that
    /// [`ContainerSpec::stdio`](crate::ContainerSpec::stdio) asked for, unless
    /// [`Container::attach`] has taken them.
    ///
    /// # Errors
    /// `InvalidState` when it was started before; and what the agent says, such
    /// as that there is no such program.
    pub async fn start(&self) -> Result<Process> {
        let container = self.key();
        let streams = self.home.ask(Start { container }).await?;
        Ok(self.first_process(streams))
    }

    /// Its first process with its streams, before it is started: once, for a
    /// program that holds the streams while another one starts it.
    ///
    /// ```no_run
    /// # async fn relay(container: &kata_sandbox::Container) -> kata_sandbox::Result<()> {
    /// let mut process = container.attach().await?;
    /// let output = process.take_stdout();
    /// // Whoever has the sandbox may call `container.start()` from here on.
    /// println!("{}", process.wait().await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `InvalidState` when the streams were taken before, or it was started.
    pub async fn attach(&self) -> Result<Process> {
        let container = self.key();
        let streams = self.home.ask(Attach { container }).await?;
        Ok(self.first_process(streams))
    }

    /// Its first process, which was started before; without its streams, which
    /// only [`Container::start`] and [`Container::attach`] give.
    ///
    /// # Errors
    /// `InvalidState` when it has not been started.
    pub fn init(&self) -> Result<Process> {
        if self.state() == ContainerState::Created {
            let context = self.home.container_context("find process of", self.id());
            return Err(context.error(ErrorKind::InvalidState, "it has not been started"));
        }
        Ok(self.first_process(Streams::default()))
    }

    fn first_process(&self, streams: Streams) -> Process {
        let (home, face) = (Arc::clone(&self.home), Arc::clone(&self.face));
        let process = Arc::clone(&self.face.init);
        Process::new(home, face, process, streams)
    }

    /// A process that was executed in it before, by the name that
    /// [`ProcessControl::exec_id`] tells: for a program that comes back to its
    /// sandbox. Of those that have ended, the last thousand are known.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn process(&self, exec_id: &str) -> Result<ProcessControl> {
        let find = Find {
            container: self.key(),
            exec_id: exec_id.to_owned(),
        };
        let (_, process) = self.home.ask(find).await?;
        let (home, face) = (Arc::clone(&self.home), Arc::clone(&self.face));
        Ok(ProcessControl::new(home, face, process))
    }

    /// Describes a further process in it, which begins with its environment,
    /// directory, user and privileges. Its program need not have been started.
    pub fn exec(&self, program: impl Into<String>) -> Exec {
        Exec::new(
            Arc::clone(&self.home),
            Arc::clone(&self.face),
            program.into(),
        )
    }

    /// Signals its first process.
    ///
    /// # Errors
    /// `InvalidConfig` when that is no signal, and what the agent says.
    pub async fn kill(&self, signal: Signal) -> Result<()> {
        self.send(Recipient::First, signal).await
    }

    /// Signals every process in it.
    ///
    /// # Errors
    /// As [`Container::kill`].
    pub async fn kill_all(&self, signal: Signal) -> Result<()> {
        self.send(Recipient::All, signal).await
    }

    async fn send(&self, to: Recipient, signal: Signal) -> Result<()> {
        let container = self.key();
        let send = SendSignal {
            container,
            to,
            signal,
        };
        self.home.ask(send).await
    }

    /// Makes its processes stand still; its program need not have been started.
    /// Idempotent.
    ///
    /// # Errors
    /// `InvalidState` when it has stopped.
    pub async fn pause(&self) -> Result<()> {
        self.set_paused(true).await
    }

    /// Lets them go on. Idempotent.
    ///
    /// # Errors
    /// `InvalidState` when it has stopped.
    pub async fn resume(&self) -> Result<()> {
        self.set_paused(false).await
    }

    async fn set_paused(&self, paused: bool) -> Result<()> {
        let container = self.key();
        self.home
            .ask(SetContainerPaused { container, paused })
            .await
    }

    /// Changes its limits.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn update(&self, resources: &oci::LinuxResources) -> Result<()> {
        let update = Update {
            container: self.key(),
            resources: Box::new(resources.clone()),
        };
        self.home.ask(update).await
    }

    /// What it uses.
    ///
    /// # Errors
    /// When its sandbox does not run.
    pub async fn stats(&self) -> Result<ContainerStats> {
        let container = self.key();
        self.home.ask(ContainerUsage { container }).await
    }

    /// The processes it has now, by their id in the guest; at most 16384.
    ///
    /// # Errors
    /// `Unsupported` when the guest's agent is not this project's.
    pub async fn processes(&self) -> Result<Vec<ProcessInfo>> {
        let container = self.key();
        self.home.ask(Processes { container }).await
    }

    /// Copies a file or directory of the host into a directory of the
    /// container, under its own name. Answers how many bytes travelled.
    ///
    /// # Errors
    /// When `host` cannot be read, or `guest` is no directory; `Unsupported`
    /// with a foreign agent.
    pub async fn copy_in(&self, host: impl AsRef<Path>, guest: impl AsRef<Path>) -> Result<u64> {
        copy::into(&self.home, self.id(), host.as_ref(), guest.as_ref()).await
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
        copy::out_of(&self.home, self.id(), guest.as_ref(), host.as_ref()).await
    }

    /// Waits until its first process has ended; it need not have been started.
    /// The status is never lost while its sandbox lives, and is [`Exit::Lost`]
    /// when that ends first.
    ///
    /// # Errors
    /// `InvalidState` when the container was deleted before it was started.
    pub async fn wait(&self) -> Result<Exit> {
        let exit = tokio::select! {
            biased;
            exit = self.face.exited() => exit,
            // Whatever ran has been told to be lost before.
            _ = self.home.face().ended() => self.face.init.exit().or(Some(Exit::Lost)),
        };
        exit.ok_or_else(|| {
            let context = self.home.container_context("wait for container", self.id());
            let reason = "it was deleted before it was started";
            context.error(ErrorKind::InvalidState, reason)
        })
    }

    /// Kills what runs in it and takes it away. Answers how its first process
    /// ended, or `None` when it was never started. Idempotent.
    ///
    /// # Errors
    /// What the agent says; it is still there then.
    pub async fn delete(self) -> Result<Option<Exit>> {
        let container = self.key();
        let exit = self.home.ask(Delete { container }).await?;
        // Deleted before, by this or by another handle: its face remembers.
        Ok(exit.or(self.face.init.exit()))
    }
}
