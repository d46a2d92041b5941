//! A running sandbox.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kata_hypervisor::{Features, GuestStream, MemorySize};

use crate::container::{Container, ContainerStatus};
use crate::dial;
use crate::engine::{Engine, Keeper};
use crate::error::{ErrorKind, Result};
use crate::event::Events;
use crate::exit::SandboxExit;
use crate::spec::ContainerSpec;
use crate::state::SandboxState;
use crate::stats::SandboxStats;
use crate::timeline::Timeline;

/// A virtual machine that runs containers. Clones are the same sandbox.
#[derive(Clone, Debug)]
pub struct Sandbox {
    keeper: Arc<Keeper>,
}

/// What there is to say of a sandbox at once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SandboxStatus {
    /// Its id.
    pub id: String,
    /// Its state.
    pub state: SandboxState,
    /// When it began to run.
    pub created: SystemTime,
    /// What it was labelled with.
    pub labels: BTreeMap<String, String>,
}

impl Sandbox {
    pub(crate) fn new(keeper: Arc<Keeper>) -> Self {
        Self { keeper }
    }

    fn engine(&self) -> &Arc<Engine> {
        self.keeper.engine()
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.engine().id()
    }

    /// Its state now.
    #[must_use]
    pub fn state(&self) -> SandboxState {
        self.engine().state()
    }

    /// What its machine can do beyond running.
    #[must_use]
    pub fn features(&self) -> Features {
        self.engine().vm().features()
    }

    /// What it was labelled with.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        self.engine().labels()
    }

    /// What there is to say of it at once.
    #[must_use]
    pub fn status(&self) -> SandboxStatus {
        let engine = self.engine();
        SandboxStatus {
            id: engine.id().to_owned(),
            state: engine.state(),
            created: engine.created(),
            labels: engine.labels().clone(),
        }
    }

    /// How long it has run.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.engine().uptime()
    }

    /// Where the time of its boot went.
    #[must_use]
    pub fn timeline(&self) -> &Timeline {
        self.engine().timeline()
    }

    /// The last bytes that the guest wrote to its console, at most 64 KiB.
    #[must_use]
    pub fn console_tail(&self) -> Vec<u8> {
        self.engine().vm().console_tail()
    }

    /// Makes a container, up to the point where its program could start.
    ///
    /// # Errors
    /// `InvalidConfig` with the field at fault, `AlreadyExists`, `Unsupported`
    /// for what the guest cannot have, and what the agent says. Nothing of the
    /// container is left then, nor when the future is dropped.
    pub async fn container(&self, id: &str, spec: ContainerSpec) -> Result<Container> {
        let record = self.engine().create_container(id, spec).await?;
        Ok(Container::new(Arc::clone(&self.keeper), record))
    }

    /// A container that was made before.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, id: &str) -> Result<Container> {
        let record = self.engine().containers().get(id).ok_or_else(|| {
            let context = self.engine().container_context("find container", id);
            context.error(
                ErrorKind::NotFound,
                "the sandbox has no container of that id",
            )
        })?;
        Ok(Container::new(Arc::clone(&self.keeper), record))
    }

    /// Its containers, by id.
    #[must_use]
    pub fn containers(&self) -> Vec<ContainerStatus> {
        let records = self.engine().containers().all();
        records
            .iter()
            .map(|record| ContainerStatus::of(record))
            .collect()
    }

    /// Stops all its processors. Idempotent.
    ///
    /// # Errors
    /// `Unsupported` where the hypervisor cannot; see [`Sandbox::features`].
    pub async fn pause(&self) -> Result<()> {
        self.engine().set_paused(true).await
    }

    /// Lets its processors run again. Idempotent.
    ///
    /// # Errors
    /// `Unsupported` where the hypervisor cannot.
    pub async fn resume(&self) -> Result<()> {
        self.engine().set_paused(false).await
    }

    /// Brings it to that many processors and that much memory, as near as the
    /// hypervisor can, and says what it has now.
    ///
    /// # Errors
    /// `Unsupported` where the hypervisor cannot.
    pub async fn resize(&self, vcpus: u32, memory: MemorySize) -> Result<(u32, MemorySize)> {
        self.engine().resize(vcpus, memory).await
    }

    /// Connects to a vsock port in the guest.
    ///
    /// # Errors
    /// `NotFound` when nothing listens there.
    pub async fn dial_vsock(&self, port: u32) -> Result<GuestStream> {
        dial::vsock(self.engine(), port).await
    }

    /// Connects to a TCP port on the sandbox's loopback.
    ///
    /// # Errors
    /// `NotFound` when nothing listens there.
    pub async fn dial_tcp(&self, port: u16) -> Result<GuestStream> {
        dial::tcp(self.engine(), port).await
    }

    /// What it uses: its machine, its guest, its containers.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn stats(&self) -> Result<SandboxStats> {
        self.engine().stats().await
    }

    /// Its events, from now on, until it has ended.
    #[must_use]
    pub fn events(&self) -> Events {
        self.engine().events().listen(Some(self.id()))
    }

    /// Waits until it has ended, however it does, and says how.
    pub async fn wait(&self) -> SandboxExit {
        self.engine().ended().await
    }

    /// Ends it: asks the containers to end (`SIGTERM`), kills after `grace`
    /// what still runs, powers the guest off, and removes everything of it on
    /// the host. Idempotent; goes on past what fails, and to its end even when
    /// the future is dropped.
    ///
    /// # Errors
    /// What failed, all of it. The sandbox has ended all the same.
    pub async fn stop(&self, grace: Duration) -> Result<()> {
        self.engine().stop(grace).await
    }

    /// Ends it without grace, if it has not ended, and frees its id.
    ///
    /// # Errors
    /// As [`Sandbox::stop`]. The id is free all the same.
    pub async fn delete(self) -> Result<()> {
        let stopped = self.engine().stop(Duration::ZERO).await;
        self.engine().free_id().await;
        stopped
    }
}
