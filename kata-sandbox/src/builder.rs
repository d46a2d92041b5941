//! Describing a sandbox, and starting it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use kata_hypervisor::{MachineSize, MemorySize};
use kata_network::Network;

use crate::engine::{self, Blueprint};
use crate::error::{Context, ErrorKind, Result};
use crate::home::Home;
use crate::image::Boot;
use crate::plan::Plan;
use crate::runtime::Shared;
use crate::sandbox::Sandbox;
use crate::supervisor;

/// The least memory with which a guest can be expected to boot.
const LEAST_MEMORY: MemorySize = MemorySize::mib(24);
/// What a sandbox has when nothing else is said.
const MEMORY: MemorySize = MemorySize::mib(128);
/// How long a boot may take when nothing else is said: a busy host without
/// hardware virtualization takes some seconds.
const BOOT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the agent may take to answer a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// What becomes of a sandbox when its last handle is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum OnDrop {
    /// Its machine is killed, and everything of it on the host removed.
    #[default]
    Kill,
    /// It goes on: it lives in a process of its own, a
    /// [supervisor](crate::supervisor), and
    /// [`Runtime::attach`](crate::Runtime::attach) finds it again.
    Detach,
}

/// Describes a sandbox. With nothing set it has one processor, 128 MiB of
/// memory, no network, and 30 seconds to boot.
///
/// ```no_run
/// use kata_sandbox::{MemorySize, Runtime};
/// use std::time::Duration;
///
/// # async fn start(runtime: &Runtime) -> kata_sandbox::Result<()> {
/// let builder = runtime
///     .sandbox("web-1")
///     .vcpus(2)
///     .memory(MemorySize::mib(256))
///     .hostname("web")
///     .label("team", "search")
///     .boot_timeout(Duration::from_secs(5));
/// println!("{}", builder.plan()?);
/// let sandbox = builder.start().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a sandbox begins with `start`"]
pub struct SandboxBuilder {
    shared: Arc<Shared>,
    pub(crate) blueprint: Blueprint,
    max_vcpus: Option<u32>,
    max_memory: Option<MemorySize>,
}

impl SandboxBuilder {
    pub(crate) fn new(shared: Arc<Shared>, id: String) -> Self {
        let network = Arc::clone(&shared.network);
        Self {
            shared,
            blueprint: Blueprint {
                id,
                hypervisor: None,
                size: MachineSize {
                    vcpus: 1,
                    max_vcpus: 1,
                    memory: MEMORY,
                    max_memory: MEMORY,
                },
                network,
                hostname: None,
                name_servers: Vec::new(),
                labels: BTreeMap::new(),
                kernel_parameters: Vec::new(),
                boot_timeout: BOOT_TIMEOUT,
                call_timeout: CALL_TIMEOUT,
                shared_process_ids: false,
                on_drop: OnDrop::Kill,
                cgroup: None,
                host_limits: crate::cgroup::HostLimits::default(),
                disks: Vec::new(),
                spare_disks: 0,
                spare_interfaces: 0,
            },
            max_vcpus: None,
            max_memory: None,
        }
    }

    /// Takes the runtime's hypervisor of that name, instead of the best.
    pub fn hypervisor(mut self, name: impl Into<String>) -> Self {
        self.blueprint.hypervisor = Some(name.into());
        self
    }

    /// Virtual processors at boot.
    pub fn vcpus(mut self, count: u32) -> Self {
        self.blueprint.size.vcpus = count;
        self
    }

    /// The most virtual processors there may ever be; by default, those at
    /// boot. A machine that can grow takes a little longer to start.
    pub fn max_vcpus(mut self, count: u32) -> Self {
        self.max_vcpus = Some(count);
        self
    }

    /// Memory at boot.
    pub fn memory(mut self, size: MemorySize) -> Self {
        self.blueprint.size.memory = size;
        self
    }

    /// The most memory there may ever be; by default, that at boot.
    pub fn max_memory(mut self, size: MemorySize) -> Self {
        self.max_memory = Some(size);
        self
    }

    /// The network, instead of the runtime's.
    pub fn network(mut self, network: impl Network) -> Self {
        self.blueprint.network = Arc::new(network);
        self
    }

    /// The host name; by default the id.
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.blueprint.hostname = Some(name.into());
        self
    }

    /// A name server for the guest, before those of the network.
    pub fn name_server(mut self, address: IpAddr) -> Self {
        self.blueprint.name_servers.push(address.to_string());
        self
    }

    /// Something to remember about the sandbox.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.blueprint.labels.insert(key.into(), value.into());
        self
    }

    /// A word for the guest's kernel command line, after those of the image.
    pub fn kernel_parameter(mut self, word: impl Into<String>) -> Self {
        self.blueprint.kernel_parameters.push(word.into());
        self
    }

    /// Lets the containers see each other's processes.
    pub fn share_process_ids(mut self) -> Self {
        self.blueprint.shared_process_ids = true;
        self
    }

    /// How long [`SandboxBuilder::start`] may take in all.
    pub fn boot_timeout(mut self, limit: Duration) -> Self {
        self.blueprint.boot_timeout = limit;
        self
    }

    /// How long the agent may take to answer a call that waits for no workload.
    pub fn call_timeout(mut self, limit: Duration) -> Self {
        self.blueprint.call_timeout = limit;
        self
    }

    /// What becomes of the sandbox when its last handle is dropped.
    pub fn on_drop(mut self, what: OnDrop) -> Self {
        self.blueprint.on_drop = what;
        self
    }

    /// Says exactly what [`SandboxBuilder::start`] will make. Needs no root and
    /// no virtualization, and changes nothing: it reads the image's manifest.
    ///
    /// # Errors
    /// When the description makes no sandbox, or there is no guest image.
    pub fn plan(&self) -> Result<Plan> {
        let context = Context::new("plan sandbox", crate::id::shown(&self.blueprint.id));
        let (blueprint, boot) = self.settle(&context)?;
        Ok(Plan::new(&self.shared, &blueprint, &boot))
    }

    /// Boots the sandbox.
    ///
    /// # Errors
    /// `InvalidConfig`, `AlreadyExists`, `HostNotCapable`, `NotFound` (the
    /// guest image), `Timeout`, `GuestLost`, …; each with the phase it was in,
    /// and the guest's last words where it had any. Nothing is left behind,
    /// neither then nor when the future is dropped.
    pub async fn start(self) -> Result<Sandbox> {
        let context = Context::new("start sandbox", crate::id::shown(&self.blueprint.id));
        let (blueprint, boot) = self.settle(&context)?;
        let home = match blueprint.on_drop {
            OnDrop::Kill => Home::here(engine::boot(&self.shared, blueprint, boot).await?),
            OnDrop::Detach => {
                Home::there(supervisor::launch(&self.shared, blueprint, &boot).await?)
            }
        };
        self.shared.registry.enter(home.id(), &home);
        Ok(Sandbox::new(home))
    }

    /// Checks everything once; what comes out needs no checks.
    fn settle(&self, context: &Context) -> Result<(Blueprint, Boot)> {
        let mut blueprint = self.blueprint.clone();
        crate::id::check(&blueprint.id, context)?;
        let size = &mut blueprint.size;
        size.max_vcpus = self.max_vcpus.unwrap_or(size.vcpus);
        size.max_memory = self.max_memory.unwrap_or(size.memory);
        check_size(size, context)?;
        if blueprint.on_drop == OnDrop::Detach {
            supervisor::program(&self.shared, context)?;
        }
        if let Some(word) = blueprint
            .kernel_parameters
            .iter()
            .find(|word| !is_word(word))
        {
            return Err(context.invalid(format!("the kernel parameter {word:?} is not one word")));
        }
        if blueprint.boot_timeout.is_zero() || blueprint.call_timeout.is_zero() {
            return Err(context.invalid("a timeout is zero"));
        }
        if !self.shared.state.sockets_fit(&blueprint.id) {
            let path = self.shared.state.path().display();
            let error = context.invalid(format!("the state directory {path} has too long a path"));
            return Err(error.with_remedy("sockets have paths of at most 107 bytes"));
        }
        self.shared
            .backends
            .check(blueprint.hypervisor.as_deref(), context)?;
        let boot = settle_image(&self.shared, context)?;
        Ok((blueprint, boot))
    }
}

/// Reads what there is to boot, and checks that it can be.
pub(crate) fn settle_image(shared: &Shared, context: &Context) -> Result<Boot> {
    let boot = shared
        .image
        .resolve()
        .map_err(|error| context.image(error))?;
    let foreign = boot
        .manifest
        .as_ref()
        .filter(|(_, manifest)| manifest.architecture != ARCH);
    if let Some((_, manifest)) = foreign {
        let reason = format!(
            "guest image {} is for {}, and this host is {ARCH}",
            boot.name, manifest.architecture
        );
        let error = context.error(ErrorKind::Unsupported, reason);
        return Err(error.with_remedy("make an image for this host with kata-image"));
    }
    Ok(boot)
}

fn check_size(size: &MachineSize, context: &Context) -> Result<()> {
    let fault = if size.vcpus == 0 {
        "a sandbox has at least one virtual processor".to_owned()
    } else if size.max_vcpus < size.vcpus {
        format!("max_vcpus is {}, and vcpus {}", size.max_vcpus, size.vcpus)
    } else if size.memory < LEAST_MEMORY {
        format!(
            "{} of memory are too few: a guest needs {LEAST_MEMORY}",
            size.memory
        )
    } else if size.max_memory < size.memory {
        format!(
            "max_memory is {}, and memory {}",
            size.max_memory, size.memory
        )
    } else {
        return Ok(());
    };
    Err(context.invalid(fault))
}

fn is_word(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_graphic())
}
