//! QEMU, as a child process.
//!
//! Every distribution has it, it runs guests under KVM where that works and by
//! translation (TCG) everywhere else, and it boots an uncompressed kernel
//! directly. Each machine is one process, spoken to over an inherited socket
//! (QMP) and confined by QEMU's own system call filter and by namespaces of its
//! own ([`Confinement`]). Its vsock and shared
//! file systems are vhost-user devices whose back ends are threads of this
//! process: no daemon, no kernel module.
//!
//! ```text
//!   VmConfig + what the probe found ──▶ plan (pure) ──▶ args ──▶ child ──▶ QMP ──▶ Vm
//!                                  back ends side by side ──────┘
//! ```
//!
//! A machine that does not grow is a `microvm` on x86_64: no PCI, no ACPI, no
//! firmware to wait for. One that grows is a `q35`; on aarch64 it is a `virt`.

mod args;
mod autopsy;
mod backends;
mod confinement;
mod create;
mod disks;
mod exit;
mod knowledge;
mod nics;
mod plan;
mod ports;
mod probe;
mod qmp;
mod resize;
mod search;
mod usage;
mod version;
mod vm;

#[cfg_attr(target_arch = "x86_64", path = "x86_64/mod.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    path = "other_arch.rs"
)]
mod arch;

/// The other architectures' files, so that what they say is checked everywhere.
#[cfg(all(test, not(target_arch = "aarch64")))]
#[expect(dead_code, reason = "only their tests are of use here")]
#[path = "aarch64.rs"]
mod aarch64_elsewhere;
#[cfg(test)]
#[expect(dead_code, reason = "only its types are of use here")]
#[path = "other_arch.rs"]
mod other_arch_elsewhere;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use async_trait::async_trait;
use tokio::sync::OnceCell;

use crate::config::VmConfig;
use crate::error::Result;
use crate::kernel::Known;
use crate::probe::{Acceleration, Probe};
use crate::vm::{Features, Hypervisor, Vm};
use knowledge::Knowledge;

pub use confinement::Confinement;
pub use version::Version;

/// The backend's name in errors.
const NAME: &str = "qemu";

/// Which machine QEMU emulates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MachineChoice {
    /// The quickest that does what is asked: `microvm` for a machine on x86_64
    /// that does not grow and whose kernel finds devices announced on its
    /// command line (an uncompressed kernel tells), else what
    /// [`Full`](Self::Full) says.
    #[default]
    Auto,
    /// The one with PCI and ACPI: `q35` on x86_64, `virt` on aarch64.
    Full,
}

/// The QEMU backend. With nothing set it finds QEMU and the best way to run it.
///
/// ```
/// use kata_hypervisor::qemu::Qemu;
///
/// let qemu = Qemu::new().binary("/opt/qemu/bin/qemu-system-x86_64");
/// ```
#[derive(Debug, Default)]
pub struct Qemu {
    settings: Settings,
    /// What was found out about the host, once it has been.
    facts: OnceCell<probe::Facts>,
    /// What another process had found out.
    recalled: OnceLock<Knowledge>,
    /// What was found out about kernels.
    kernels: Arc<Known>,
}

/// What the embedder chose.
#[derive(Clone, Debug, Default)]
struct Settings {
    binary: Option<PathBuf>,
    acceleration: Option<Acceleration>,
    machine: MachineChoice,
    extra_args: Vec<OsString>,
    confinement: Confinement,
}

impl Qemu {
    /// A backend that finds everything out by itself.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs this program, instead of the first `qemu-system-<arch>` found in
    /// the usual directories, such as `/usr/bin`. The environment is not read.
    #[must_use]
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.binary = Some(path.into());
        self
    }

    /// Executes guest code in this way only, instead of KVM where it works and
    /// emulation elsewhere.
    #[must_use]
    pub fn acceleration(mut self, acceleration: Acceleration) -> Self {
        self.settings.acceleration = Some(acceleration);
        self
    }

    /// Emulates this machine, instead of the quickest that fits.
    #[must_use]
    pub fn machine(mut self, machine: MachineChoice) -> Self {
        self.settings.machine = machine;
        self
    }

    /// Keeps QEMU's process apart from the host in this way.
    #[must_use]
    pub fn confinement(mut self, confinement: Confinement) -> Self {
        self.settings.confinement = confinement;
        self
    }

    /// Appends an argument to QEMU's command line, after all others. Nothing
    /// checks it: a way out, not a way.
    #[must_use]
    pub fn extra_arg(mut self, arg: impl Into<OsString>) -> Self {
        self.settings.extra_args.push(arg.into());
        self
    }

    /// What is known of the host; looked for until it is usable.
    async fn facts(&self) -> Result<&probe::Facts, Probe> {
        self.facts
            .get_or_try_init(|| probe::look(&self.settings, self.recalled.get()))
            .await
    }
}

#[async_trait]
impl Hypervisor for Qemu {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn probe(&self) -> Probe {
        match self.facts().await {
            Ok(facts) => facts.probe.clone(),
            Err(probe) => probe,
        }
    }

    fn offers(&self) -> Features {
        Features {
            pause: true,
            hotplug: true,
            disks: true,
            nics: true,
            snapshot: true,
            balloon: false,
            process: true,
        }
    }

    fn knowledge(&self) -> Option<String> {
        let knowledge = self.facts.get()?.knowledge.as_ref()?;
        serde_json::to_string(knowledge).ok()
    }

    fn recall(&self, knowledge: &str) {
        match serde_json::from_str(knowledge) {
            // The first that is heard counts.
            Ok(knowledge) => drop(self.recalled.set(knowledge)),
            Err(error) => log::debug!(error:%; "what was known of QEMU makes no sense"),
        }
    }

    async fn create(&self, config: VmConfig) -> Result<Box<dyn Vm>> {
        let began = Instant::now();
        let vm = create::create(self, config, began).await?;
        Ok(Box::new(vm))
    }
}
