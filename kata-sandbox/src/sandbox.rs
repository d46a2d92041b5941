//! A running sandbox.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kata_hypervisor::{Features, GuestStream, MemorySize};
use kata_network::{GuestInterface, Network, RateLimits, Route, Rule};

use crate::container::{Container, ContainerStatus};
use crate::dial;
use crate::error::{ErrorKind, Result};
use crate::event::Events;
use crate::exit::SandboxExit;
use crate::forward::{self, Forwarding, Transport};
use crate::home::operation::{
    AddNetwork, Console, Create, DeleteSandbox, Interfaces, LimitInterface, RemoveNetwork,
    RescanNetworks, Resize, Routes, SetInterface, SetPaused, SetRoutes, Stop, Usage,
};
use crate::home::{Home, SandboxFace};
use crate::spec::{self, ContainerSpec};
use crate::state::SandboxState;
use crate::stats::SandboxStats;
use crate::timeline::Timeline;

/// A virtual machine that runs containers. Clones are the same sandbox.
#[derive(Clone, Debug)]
pub struct Sandbox {
    home: Arc<Home>,
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
    pub(crate) fn new(home: Arc<Home>) -> Self {
        Self { home }
    }

    fn face(&self) -> &SandboxFace {
        self.home.face()
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.home.id()
    }

    /// Its state now.
    #[must_use]
    pub fn state(&self) -> SandboxState {
        self.face().state()
    }

    /// What its machine can do beyond running.
    #[must_use]
    pub fn features(&self) -> Features {
        self.face().features
    }

    /// What it was labelled with.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.face().labels
    }

    /// What there is to say of it at once.
    #[must_use]
    pub fn status(&self) -> SandboxStatus {
        let face = self.face();
        SandboxStatus {
            id: face.id.clone(),
            state: face.state(),
            created: face.created,
            labels: face.labels.clone(),
        }
    }

    /// How long it has run.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.face().booted.elapsed()
    }

    /// Where the time of its boot went.
    #[must_use]
    pub fn timeline(&self) -> &Timeline {
        &self.face().timeline
    }

    /// The last bytes that the guest wrote to its console, at most 64 KiB.
    ///
    /// # Errors
    /// `GuestLost` when its supervisor is gone, and the console with it.
    pub async fn console_tail(&self) -> Result<Vec<u8>> {
        self.home.ask(Console {}).await
    }

    /// Makes a container, up to the point where its program could start.
    ///
    /// # Errors
    /// `InvalidConfig` with the field at fault, `AlreadyExists`, `Unsupported`
    /// for what the guest cannot have, and what the agent says. Nothing of the
    /// container is left then, nor when the future is dropped.
    pub async fn container(&self, id: &str, spec: ContainerSpec) -> Result<Container> {
        if self.home.is_detached() {
            let context = self.home.container_context("create container", id);
            spec::check_paths(&spec, &context)?;
        }
        let create = Create {
            id: id.to_owned(),
            spec: Box::new(spec),
        };
        let face = self.home.ask(create).await?;
        Ok(Container::new(Arc::clone(&self.home), face))
    }

    /// A container that was made before.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, id: &str) -> Result<Container> {
        let face = self.home.container(id);
        let face = face.ok_or_else(|| self.home.no_container(id))?;
        Ok(Container::new(Arc::clone(&self.home), face))
    }

    /// Its containers, by id.
    #[must_use]
    pub fn containers(&self) -> Vec<ContainerStatus> {
        let faces = self.home.containers();
        faces.iter().map(|face| ContainerStatus::of(face)).collect()
    }

    /// Stops all its processors. Idempotent.
    ///
    /// # Errors
    /// `Unsupported` where the hypervisor cannot; see [`Sandbox::features`].
    pub async fn pause(&self) -> Result<()> {
        self.home.ask(SetPaused { paused: true }).await
    }

    /// Lets its processors run again. Idempotent.
    ///
    /// # Errors
    /// `Unsupported` where the hypervisor cannot.
    pub async fn resume(&self) -> Result<()> {
        self.home.ask(SetPaused { paused: false }).await
    }

    /// Brings it to that many processors and that much memory, as near as the
    /// hypervisor can, and says what it has now.
    ///
    /// # Errors
    /// `Unsupported` where the hypervisor cannot.
    pub async fn resize(&self, vcpus: u32, memory: MemorySize) -> Result<(u32, MemorySize)> {
        self.home.ask(Resize { vcpus, memory }).await
    }

    /// Connects to a vsock port in the guest.
    ///
    /// # Errors
    /// `NotFound` when nothing listens there.
    pub async fn dial_vsock(&self, port: u32) -> Result<GuestStream> {
        dial::vsock(&self.home, port).await
    }

    /// Makes an address of the host lead to a port on the sandbox's loopback,
    /// of whichever family listens there, until what this gives is dropped.
    /// Port 0 takes one that is free. Needs no network; a sandbox that is
    /// detached is forwarded to as long as this process lives.
    ///
    /// # Errors
    /// `AlreadyExists` when somebody listens on that address.
    pub async fn forward(
        &self,
        transport: Transport,
        host: SocketAddr,
        guest: u16,
    ) -> Result<Forwarding> {
        forward::forward(&self.home, transport, host, guest).await
    }

    /// Connects it to a network more while it runs, and answers the interfaces
    /// that it has of it. An interface whose name is taken in the guest gets the
    /// next of `eth0`, `eth1` and so on. Nothing is left of the network when
    /// this fails or the future is dropped, nor after the sandbox's end.
    ///
    /// ```no_run
    /// # async fn more(sandbox: &kata_sandbox::Sandbox) -> kata_sandbox::Result<()> {
    /// use kata_sandbox::network::NetNs;
    ///
    /// let interfaces = sandbox.add_network("storage", NetNs::new("/run/netns/storage")).await?;
    /// println!("{}", interfaces[0].name);
    /// sandbox.remove_network("storage").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Unsupported` where the machine takes no devices: see
    /// [`SandboxBuilder::spare_interfaces`](crate::SandboxBuilder::spare_interfaces);
    /// `AlreadyExists`, and what the network says.
    pub async fn add_network(
        &self,
        name: &str,
        network: impl Network,
    ) -> Result<Vec<GuestInterface>> {
        let add = AddNetwork::new(name, Arc::new(network));
        self.home.ask(add).await
    }

    /// Disconnects it from a network that [`Sandbox::add_network`] added.
    ///
    /// # Errors
    /// `NotFound`; `Timeout` when the guest does not let go of a device.
    pub async fn remove_network(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.home.ask(RemoveNetwork { name }).await
    }

    /// Looks again at what the networks have: interfaces, addresses, routes,
    /// rules and neighbours in the guest become what they are on the host.
    /// Answers all interfaces.
    ///
    /// # Errors
    /// `Unsupported` when none of the networks ever changes, and when there are
    /// interfaces for which the machine has no device; the rest is done then.
    pub async fn rescan_networks(&self) -> Result<Vec<GuestInterface>> {
        self.home.ask(RescanNetworks {}).await
    }

    /// The guest's interfaces, as it was told.
    ///
    /// # Errors
    /// When its supervisor is gone.
    pub async fn interfaces(&self) -> Result<Vec<GuestInterface>> {
        self.home.ask(Interfaces {}).await
    }

    /// The guest's routes and rules, as it was told.
    ///
    /// # Errors
    /// When its supervisor is gone.
    pub async fn routes(&self) -> Result<(Vec<Route>, Vec<Rule>)> {
        self.home.ask(Routes {}).await
    }

    /// Gives the interface of that name these addresses, MTU and hardware
    /// address (`new_mac`, or `mac`). What a network has on the host stays.
    ///
    /// # Errors
    /// `NotFound`, and what the guest says.
    pub async fn set_interface(&self, interface: GuestInterface) -> Result<()> {
        let wanted = interface;
        self.home.ask(SetInterface { wanted }).await
    }

    /// Makes these the guest's routes and rules, beside those that its kernel
    /// makes, until they are set again. With no rules, those that are there stay.
    ///
    /// # Errors
    /// What the guest says; it has the routes from before then.
    pub async fn set_routes(&self, routes: Vec<Route>, rules: Vec<Rule>) -> Result<()> {
        self.home.ask(SetRoutes { routes, rules }).await
    }

    /// Limits what goes through an interface, instead of earlier limits.
    ///
    /// # Errors
    /// `NotFound`; `Unsupported` for networks that cannot.
    pub async fn limit_interface(&self, interface: &str, limits: RateLimits) -> Result<()> {
        let interface = interface.to_owned();
        self.home.ask(LimitInterface { interface, limits }).await
    }

    /// Connects to a TCP port on the sandbox's loopback.
    ///
    /// # Errors
    /// `NotFound` when nothing listens there.
    pub async fn dial_tcp(&self, port: u16) -> Result<GuestStream> {
        dial::tcp(&self.home, port).await
    }

    /// What it uses: its machine, its guest, its containers.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn stats(&self) -> Result<SandboxStats> {
        self.home.ask(Usage {}).await
    }

    /// Its events, from now on, until it has ended.
    #[must_use]
    pub fn events(&self) -> Events {
        self.face().events.listen(Some(self.id()))
    }

    /// Waits until it has ended, however it does, and says how.
    pub async fn wait(&self) -> SandboxExit {
        self.face().ended().await
    }

    /// Ends it: asks the containers to end (`SIGTERM`), kills after `grace`
    /// what still runs, powers the guest off, and removes everything of it on
    /// the host. Idempotent; goes on past what fails, and to its end even when
    /// the future is dropped.
    ///
    /// # Errors
    /// What failed, all of it. The sandbox has ended all the same.
    pub async fn stop(&self, grace: Duration) -> Result<()> {
        self.home.ask(Stop { grace }).await
    }

    /// Ends it without grace, if it has not ended, and frees its id.
    ///
    /// # Errors
    /// As [`Sandbox::stop`]. The id is free all the same.
    pub async fn delete(self) -> Result<()> {
        let deleted = self.home.ask(DeleteSandbox {}).await;
        self.home.free_id();
        deleted
    }

    /// Lets go of a sandbox that was started with
    /// [`OnDrop::Detach`](crate::OnDrop::Detach), and answers its id, by which
    /// [`Runtime::attach`](crate::Runtime::attach) finds it again. The same as
    /// dropping every handle, but for what it says of a sandbox that would end.
    ///
    /// # Errors
    /// `InvalidState` when its engine is in this process, and would end with it.
    pub fn detach(self) -> Result<String> {
        if self.home.is_detached() {
            return Ok(self.id().to_owned());
        }
        let context = self.home.context("detach from sandbox");
        let reason = "it lives in this process";
        let error = context.error(ErrorKind::InvalidState, reason);
        Err(error.with_remedy("start it with OnDrop::Detach"))
    }
}
