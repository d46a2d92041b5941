//! Our own monitor, in this process.
//!
//! A machine is some threads of the program that asked for it: one per virtual
//! processor, one or a few per device. No program is started, no file but
//! `/dev/kvm` is needed, and the shortest way leads from the call to the
//! guest's first instruction.
//!
//! ```text
//!   VmConfig ──▶ memory (memfd) ──▶ KVM machine, irqchip ──▶ kernel in memory
//!                     │                    │                      │
//!                 devices ◀── ioeventfd ───┤                  vCPU threads (held)
//!                     └────── irqfd ──────▶┘                      │ start
//!                                            bus: ports, MMIO ◀─ exits
//! ```
//!
//! The machine has no firmware: its kernel is entered directly. Its devices are
//! virtio-mmio, or virtio-pci where that is asked for or lines do not suffice. A
//! kernel that finds registers by its command line needs no tables; another one
//! finds them by ACPI, and has a power button.
//! `docs/kvm.md` has the machine's layout and the threat model.
//!
//! # Confinement
//! Processor and device threads run under system call filters. They share this
//! process's memory all the same: who wants a process between guest and host
//! program runs the sandbox in a supervisor.

mod bus;
mod cgroup;
mod confine;
mod create;
mod devices;
mod ending;
mod eventfd;
mod guest;
mod keeper;
mod legacy;
mod memory;
mod probe;
mod settings;
mod usage;
mod vcpu;
mod vm;

/// The seam of architectures: another one is a module of the same face.
#[path = "x86_64/mod.rs"]
mod arch;

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use tokio::sync::OnceCell;

use crate::config::VmConfig;
use crate::error::Result;
use crate::kernel::Known;
use crate::probe::Probe;
use crate::vm::{Features, Hypervisor, Vm};

use settings::Settings;
pub use settings::{CpuModel, Guests, MemoryBacking, Nesting, PageSize, Transports};

/// The backend's name in errors.
const NAME: &str = "kvm";

/// The in-process backend. With nothing set, guests see the host's processor,
/// and memory is shared, in small pages, filled as it is touched.
///
/// ```
/// use kata_hypervisor::kvm::{CpuModel, Kvm, PageSize};
///
/// let kvm = Kvm::new()
///     .cpu_model(CpuModel::Baseline)
///     .page_size(PageSize::Huge2M)
///     .pin_vcpus([2, 3]);
/// ```
#[derive(Debug, Default)]
pub struct Kvm {
    settings: Settings,
    /// What was found out about the host, once it has been.
    facts: OnceCell<Probe>,
    /// What was found out about kernels.
    kernels: Arc<Known>,
}

impl Kvm {
    /// A backend with the defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens this device instead of `/dev/kvm`.
    #[must_use]
    pub fn device(mut self, path: impl Into<std::path::PathBuf>) -> Self {
        self.settings.device = path.into();
        self
    }

    /// Says what guests are run, which decides what a host must be capable of.
    #[must_use]
    pub fn guests(mut self, guests: Guests) -> Self {
        self.settings.guests = guests;
        self
    }

    /// Shows guests this processor.
    #[must_use]
    pub fn cpu_model(mut self, model: CpuModel) -> Self {
        self.settings.cpu_model = model;
        self
    }

    /// Whether guests may run virtual machines of their own, where the host can.
    #[must_use]
    pub fn nesting(mut self, nesting: Nesting) -> Self {
        self.settings.nesting = nesting;
        self
    }

    /// Makes guest memory of pages of this size.
    #[must_use]
    pub fn page_size(mut self, size: PageSize) -> Self {
        self.settings.page_size = size;
        self
    }

    /// What guest memory is made of.
    #[must_use]
    pub fn memory_backing(mut self, backing: MemoryBacking) -> Self {
        self.settings.backing = backing;
        self
    }

    /// Has the host provide all of a guest's memory before it starts. A start
    /// takes longer, and the guest never waits for a page.
    #[must_use]
    pub fn prefault(mut self, prefault: bool) -> Self {
        self.settings.prefault = prefault;
        self
    }

    /// Whether the host's kernel moves the frames of cards over taps of one queue
    /// (`/dev/vhost-net`), where it can. Faster, and the kernel reads the guest's
    /// rings. Off unless told: a thread of this process does it.
    #[must_use]
    pub fn vhost_net(mut self, wanted: bool) -> Self {
        self.settings.vhost_net = wanted;
        self
    }

    /// How guests find their devices: in memory, or on a PCI bus.
    #[must_use]
    pub fn transports(mut self, transports: Transports) -> Self {
        self.settings.transports = transports;
        self
    }

    /// Binds virtual processor *n* to the *n*-th of these processors of the
    /// host, and begins anew after the last. An empty list binds none.
    #[must_use]
    pub fn pin_vcpus(mut self, host_cpus: impl IntoIterator<Item = usize>) -> Self {
        self.settings.pins = host_cpus.into_iter().collect();
        self
    }

    /// What is known of the host; looked for until it is usable.
    async fn facts(&self) -> Result<&Probe, Probe> {
        self.facts
            .get_or_try_init(|| probe::look(&self.settings))
            .await
    }
}

#[async_trait]
impl Hypervisor for Kvm {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn probe(&self) -> Probe {
        match self.facts().await {
            Ok(probe) => probe.clone(),
            Err(probe) => probe,
        }
    }

    fn offers(&self) -> Features {
        Features {
            pause: true,
            balloon: true,
            ..Features::default()
        }
    }

    async fn create(&self, config: VmConfig) -> Result<Box<dyn Vm>> {
        let began = Instant::now();
        let vm = create::create(self, config, began).await?;
        Ok(Box::new(vm))
    }
}
