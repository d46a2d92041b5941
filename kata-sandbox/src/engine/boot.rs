//! From a blueprint to a running sandbox.
//!
//! ```text
//!   journal ─┬─ reserve devices ─┬─ create machine ─▶ run ─▶ agent announces itself ─┬─▶ CreateSandbox,
//!            │                   └─ network ──────────────────────────────────────────┘   interfaces, … ─┐
//!            └─ verify guest image ──────────────────────────────────────────────────────────────────────┴─▶ Running
//!
//! A network that cannot make its devices ahead is set up before the machine.
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kata_devices::fs::SharedTree;
use kata_hypervisor::{Hypervisor, Io, MachineSize, StopMode, Vm, VmConfig};
use kata_network::{Endpoint, Lease};
use kata_protocol::ttrpc::Client;
use tokio::time::timeout;

use super::agent::Agent;
use super::blueprint::Blueprint;
use super::connect::{self, Announcement};
use super::networks::Networks;
use super::site::{MachinePlace, NetworkPlace, Site, cgroup_error, open_journal};
use super::{Engine, Parts};
use super::{guest_setup, nics};
use crate::backends::Needs;
use crate::builder::OnDrop;
use crate::cgroup;
use crate::error::{Context, ErrorKind, Result};
use crate::image::{Boot, VerifyError};
use crate::plan;
use crate::runtime::Shared;
use crate::timeline::Recorder;

/// How many times its usual overhead a monitor may need, where its memory is
/// limited: one that translates code keeps what it has translated.
const MONITOR_SLACK: u64 = 4;
/// How long a machine may take to end after its agent has.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Boots a sandbox. Dropped at any moment, or failing, it leaves nothing.
pub(crate) async fn boot(
    shared: &Arc<Shared>,
    blueprint: Blueprint,
    boot: Boot,
) -> Result<Arc<Engine>> {
    let context = Context::new("start sandbox", &*blueprint.id);
    let recorder = Recorder::new();
    let reservation = shared.registry.reserve(&blueprint.id).ok_or_else(|| {
        context.error(
            ErrorKind::AlreadyExists,
            "this runtime has a sandbox of that id",
        )
    })?;
    let stays = blueprint.on_drop == OnDrop::Detach;
    let mut site = Site::new(
        &blueprint.id,
        reservation,
        stays,
        shared.state.steps().clone(),
    );
    let deadline = blueprint.boot_timeout;
    let attempt = Attempt {
        shared,
        blueprint: &blueprint,
        boot: &boot,
        recorder: &recorder,
    };
    let outcome = timeout(deadline, attempt.run(&mut site, &context)).await;
    let error = match outcome {
        Ok(Ok(ready)) => return Ok(attempt.finish(site, ready)),
        Ok(Err(error)) => error,
        Err(_) => {
            let reason = format!("it was not ready within {} ms", deadline.as_millis());
            let error = context.error(ErrorKind::Timeout, reason);
            error.with_remedy("see the guest's console in the error, or allow it more time")
        }
    };
    let error = match recorder.interrupted() {
        Some(phase) => error.during(phase),
        None => error,
    };
    let tail = site.vm().map(|vm| vm.console_tail()).unwrap_or_default();
    let (_, failures) = site.clear(StopMode::Kill).await;
    for failure in failures {
        log::warn!(sandbox_id = blueprint.id.as_str(), error:% = failure; "left behind");
    }
    Err(error.with_console(|| tail))
}

struct Attempt<'a> {
    shared: &'a Arc<Shared>,
    blueprint: &'a Blueprint,
    boot: &'a Boot,
    recorder: &'a Recorder,
}

/// A machine whose agent is ready.
struct Ready {
    vm: Arc<dyn Vm>,
    agent: Agent,
    tree: SharedTree,
    lease: Lease,
}

impl Attempt<'_> {
    async fn run(&self, site: &mut Site, context: &Context) -> Result<Ready> {
        let blueprint = self.blueprint;
        let hypervisor = {
            let _phase = self.recorder.begin("choose hypervisor");
            let needs = Needs {
                growth: blueprint.size.grows(),
                disks: blueprint.spare_disks > 0,
                nics: blueprint.spare_interfaces > 0,
                // A supervisor enters the group itself, with all its threads.
                process: blueprint.cgroup.is_some() && blueprint.on_drop == OnDrop::Kill,
            };
            self.shared
                .backends
                .choose(blueprint.hypervisor.as_deref(), needs, context)
                .await?
        };
        let (run_dir, cgroup) = {
            let _phase = self.recorder.begin("journal");
            let state = &self.shared.state;
            let (network, id) = (&blueprint.network, &blueprint.id);
            let cgroup = self.plan_cgroup(context)?;
            let dir = open_journal(state, network, id, cgroup.as_ref(), context).await?;
            let run_dir = dir.run_dir();
            site.set_dir(dir);
            (run_dir, self.make_cgroup(site, cgroup, context)?)
        };
        let announcement =
            Announcement::expect_at(&Blueprint::announcement_socket(&run_dir), context)?;
        let tree = SharedTree::new()
            .map_err(|e| context.share("cannot make the tree of shared directories", e))?;
        let mut config = blueprint.machine(self.boot, run_dir, &tree);
        config.cgroup = cgroup;

        // The image is read beside all else: what a damaged one booted meanwhile
        // has had no container in it, and is taken away.
        let image = async {
            let _phase = self.recorder.begin("verify guest image");
            self.shared
                .images
                .verify(self.boot)
                .await
                .map_err(|error| match error {
                    VerifyError::Manifest(error) => context.image(error),
                    VerifyError::Task(error) => context.join(error),
                })
        };
        let machine = self.machine(site, &*hypervisor, config, announcement, context);
        tokio::pin!(image, machine);
        let (vm, agent, lease) = tokio::select! {
            biased;
            verified = &mut image => {
                verified?;
                machine.await?
            }
            booted = &mut machine => {
                // A damaged image explains whatever failed.
                image.await?;
                booted?
            }
        };
        Ok(Ready {
            vm,
            agent,
            tree,
            lease,
        })
    }

    /// Where the sandbox's control group is, if it is to have one.
    fn plan_cgroup(&self, context: &Context) -> Result<Option<cgroup::Plan>> {
        let name = self.blueprint.cgroup.as_deref();
        let plan = name.map(cgroup::Plan::new).transpose();
        plan.map_err(|error| cgroup_error(context, error))
    }

    /// Makes the control group. A supervisor is in it, too; an embedder is not.
    fn make_cgroup(
        &self,
        site: &mut Site,
        plan: Option<cgroup::Plan>,
        context: &Context,
    ) -> Result<Vec<PathBuf>> {
        let Some(plan) = plan else {
            return Ok(Vec::new());
        };
        let failed = |error| cgroup_error(context, error);
        let size = &self.blueprint.size;
        let beside = plan::overhead(size)
            .as_bytes()
            .saturating_mul(MONITOR_SLACK);
        let memory = size.max_memory.as_bytes().saturating_add(beside);
        let limits = self.blueprint.host_limits.clone().memory(memory);
        let mut made = plan.make(&limits).map_err(failed)?;
        let entered = match self.blueprint.on_drop {
            OnDrop::Detach => made.enter(),
            OnDrop::Kill => Ok(()),
        };
        let procs = made.procs();
        site.set_cgroup(made);
        self.shared.state.steps().reach("control group made");
        entered.map_err(failed)?;
        Ok(procs)
    }

    /// Makes and boots the machine, and tells its guest what it is for. A network
    /// that makes its devices ahead is set up while the guest boots.
    async fn machine(
        &self,
        site: &mut Site,
        hypervisor: &dyn Hypervisor,
        mut config: VmConfig,
        announcement: Announcement,
        context: &Context,
    ) -> Result<(Arc<dyn Vm>, Agent, Lease)> {
        let (mut network, machine) = site.places();
        let reserved = self.reserve(&mut network, context).await?;
        let (lease, (vm, stream)) = if reserved.is_empty() {
            // The machine's devices are what the network gives.
            let mut lease = self.set_up_network(&mut network, context).await?;
            let endpoints = std::mem::take(&mut lease.endpoints);
            config.devices.nics = nics::devices(endpoints, context)?;
            let booted = self.boot_machine(machine, hypervisor, config, announcement, context);
            (lease, booted.await?)
        } else {
            config.devices.nics = nics::devices(reserved, context)?;
            tokio::try_join!(
                self.set_up_network(&mut network, context),
                self.boot_machine(machine, hypervisor, config, announcement, context),
            )?
        };
        if !lease.endpoints.is_empty() {
            let reason = "the network gives devices that it has not reserved";
            let error = context.error(ErrorKind::Unsupported, reason);
            return Err(error.during("network"));
        }
        let agent = tokio::select! {
            agent = self.set_up_guest(stream, &lease, context) => agent,
            error = connect::ended(&*vm, context) => return Err(error),
        };
        match agent {
            Ok(agent) => Ok((vm, agent, lease)),
            // The agent goes with its machine, which knows more.
            Err(error) if error.kind() == ErrorKind::GuestLost => {
                let explained = timeout(LAST_WORDS, connect::ended(&*vm, context)).await;
                Err(explained
                    .map(|why| why.during("set up guest"))
                    .unwrap_or(error))
            }
            Err(error) => Err(error),
        }
    }

    /// The devices that the network makes ahead. An agent of another kind could
    /// not give them the hardware addresses that they are to have.
    async fn reserve(
        &self,
        place: &mut NetworkPlace<'_>,
        context: &Context,
    ) -> Result<Vec<Endpoint>> {
        if !self.boot.announces {
            return Ok(Vec::new());
        }
        let _phase = self.recorder.begin("reserve devices");
        let (network, processors) = (&self.blueprint.network, self.blueprint.size.max_vcpus);
        let reserved = place.reserve(network, processors).await;
        let reserved = reserved.map_err(|error| context.network(error))?;
        if !reserved.is_empty() {
            self.shared.state.steps().reach("devices reserved");
        }
        Ok(reserved)
    }

    async fn set_up_network(
        &self,
        place: &mut NetworkPlace<'_>,
        context: &Context,
    ) -> Result<Lease> {
        let _phase = self.recorder.begin("network");
        let (network, processors) = (&self.blueprint.network, self.blueprint.size.max_vcpus);
        let lease = place.set_up(network, processors).await;
        let mut lease = lease.map_err(|error| context.network(error))?;
        self.recorder.tell(std::mem::take(&mut lease.phases));
        self.shared.state.steps().reach("network set up");
        Ok(lease)
    }

    /// Makes and starts the machine, and waits for its agent.
    async fn boot_machine(
        &self,
        mut place: MachinePlace<'_>,
        hypervisor: &dyn Hypervisor,
        config: VmConfig,
        announcement: Announcement,
        context: &Context,
    ) -> Result<(Arc<dyn Vm>, Box<dyn Io>)> {
        let steps = self.shared.state.steps();
        let vm = {
            let _phase = self.recorder.begin("create machine");
            let vm = hypervisor
                .create(config)
                .await
                .map_err(|error| context.vm(error).during("create machine"))?;
            place.set(vm)
        };
        steps.reach("machine made");
        refuse_growth(&self.blueprint.size, &*vm, hypervisor.name(), context)?;
        {
            let _phase = self.recorder.begin("start machine");
            let start = async {
                let started = vm.start().await;
                started.map_err(|error| context.vm(error).during("start machine"))
            };
            let note = async {
                match vm.monitor() {
                    Some(pid) => place.note_monitor(pid, context).await,
                    None => Ok(()),
                }
            };
            tokio::try_join!(start, note)?;
        }
        steps.reach("machine started");
        let _phase = self.recorder.begin("guest boot");
        let stream = tokio::select! {
            stream = announcement.connection(&*vm, self.boot.announces, context) => stream?,
            error = connect::ended(&*vm, context) => return Err(error.during("guest boot")),
        };
        Ok((vm, stream))
    }

    async fn set_up_guest(
        &self,
        stream: Box<dyn Io>,
        lease: &Lease,
        context: &Context,
    ) -> Result<Agent> {
        let _phase = self.recorder.begin("set up guest");
        let agent = Agent::new(Client::new(stream), self.blueprint.call_timeout);
        guest_setup::run(&agent, self.blueprint, lease, self.boot.announces)
            .await
            .map_err(|e| context.call(e))?;
        Ok(agent)
    }

    fn finish(&self, site: Site, ready: Ready) -> Arc<Engine> {
        self.shared.state.steps().reach("guest ready");
        let timeline = self.recorder.finish(&ready.vm.phases());
        let networks = Networks::new(
            &self.blueprint.id,
            Arc::clone(&self.blueprint.network),
            ready.lease,
            self.blueprint.size.max_vcpus,
        );
        Engine::new(Parts {
            networks,
            blueprint: self.blueprint.clone(),
            vm: ready.vm,
            agent: ready.agent,
            tree: ready.tree,
            announces: self.boot.announces,
            site,
            timeline,
            events: self.shared.events.clone(),
            steps: self.shared.state.steps().clone(),
        })
    }
}

/// A machine that is to grow and cannot would disappoint much later.
fn refuse_growth(size: &MachineSize, vm: &dyn Vm, backend: &str, context: &Context) -> Result<()> {
    if !size.grows() || vm.hotplug().is_some() {
        return Ok(());
    }
    let reason =
        format!("{backend} cannot resize machines, and max_vcpus or max_memory asks for it");
    let error = context.error(ErrorKind::Unsupported, reason);
    Err(error.with_remedy("give the machine its final size, and leave both out"))
}
