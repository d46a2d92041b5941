//! The traits between a runtime and what runs its virtual machines.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::config::VmConfig;
use crate::disk::DiskConfig;
use crate::error::Result;
use crate::nic::NicConfig;
use crate::probe::Probe;
use crate::stream::GuestStream;

/// Makes virtual machines.
#[async_trait]
pub trait Hypervisor: fmt::Debug + Send + Sync + 'static {
    /// The backend's name: short, lower-case, the same for ever.
    fn name(&self) -> &'static str;

    /// Finds out whether and how machines run on this host. Makes nothing that
    /// outlives the call; may take some hundred milliseconds, so ask once.
    async fn probe(&self) -> Probe;

    /// What its machines may be able to do. Who chooses between hypervisors passes
    /// over one that does not offer what is asked for; what a machine really can
    /// do, [`Vm::features`] says. Everything, unless a backend knows better.
    fn offers(&self) -> Features {
        Features {
            pause: true,
            hotplug: true,
            disks: true,
            nics: true,
            snapshot: true,
            balloon: true,
            process: true,
        }
    }

    /// What it has found out about this host and another process need not: a text
    /// that only hypervisors of this name can read. `None` when there is nothing yet,
    /// or nothing worth keeping.
    fn knowledge(&self) -> Option<String> {
        None
    }

    /// Takes what [`knowledge`](Self::knowledge) gave, perhaps to another process and
    /// long ago, before the first probe. It is checked: what does not hold any more,
    /// or makes no sense, is found out anew.
    fn recall(&self, knowledge: &str) {
        let _ = knowledge;
    }

    /// Validates `config` and makes the machine, up to the point where its
    /// processors could run. On an error, or when the future is dropped,
    /// nothing is left behind.
    async fn create(&self, config: VmConfig) -> Result<Box<dyn Vm>>;
}

/// A virtual machine. Dropping it kills it and leaves nothing behind.
#[async_trait]
pub trait Vm: fmt::Debug + Send + Sync {
    /// Lets the processors run. Once.
    async fn start(&self) -> Result<()>;

    /// Ends the machine and releases all that was made for it. Idempotent: a
    /// machine that has ended already answers how it ended.
    async fn stop(&self, how: StopMode) -> Result<VmExit>;

    /// Waits until the machine has ended, however it does, and says how. Any
    /// number of callers may wait, before and after.
    async fn wait(&self) -> Result<VmExit>;

    /// Connects to a vsock port in the guest.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused) when nothing listens there.
    async fn dial(&self, port: u32) -> Result<GuestStream>;

    /// The last bytes (at most 64 KiB) that the guest wrote to its console.
    fn console_tail(&self) -> Vec<u8>;

    /// How long each phase of making and starting took, in order of beginning.
    fn phases(&self) -> Vec<Phase>;

    /// What the machine costs the host beside the guest's own memory.
    ///
    /// # Errors
    /// When the machine has ended.
    async fn usage(&self) -> Result<VmUsage>;

    /// The process that runs the machine, where it is one of its own: a journal
    /// notes it, so that a later process can see it gone.
    fn monitor(&self) -> Option<u32> {
        None
    }

    /// Stopping and resuming of all processors, where the backend can.
    fn pause(&self) -> Option<&dyn Pause> {
        None
    }

    /// Growing and shrinking, where the backend can.
    fn hotplug(&self) -> Option<&dyn Hotplug> {
        None
    }

    /// Attaching and detaching of disks, where the backend can.
    fn disks(&self) -> Option<&dyn DiskPlug> {
        None
    }

    /// Attaching and detaching of network devices, where the backend can.
    fn nics(&self) -> Option<&dyn NicPlug> {
        None
    }

    /// Taking and giving back of memory, where the machine has a balloon.
    fn balloon(&self) -> Option<&dyn Balloon> {
        None
    }

    /// Saving to disk, where the backend can.
    fn snapshot(&self) -> Option<&dyn Snapshot> {
        None
    }

    /// What this machine can do, derived from the traits that are there.
    fn features(&self) -> Features {
        Features {
            pause: self.pause().is_some(),
            hotplug: self.hotplug().is_some(),
            disks: self.disks().is_some(),
            nics: self.nics().is_some(),
            snapshot: self.snapshot().is_some(),
            balloon: self.balloon().is_some(),
            process: self.monitor().is_some(),
        }
    }
}

/// Stopping and resuming of all virtual processors.
#[async_trait]
pub trait Pause: Send + Sync {
    /// Stops the processors; the guest's time stands still. Idempotent.
    async fn pause(&self) -> Result<()>;
    /// Lets them run again. Idempotent.
    async fn resume(&self) -> Result<()>;
}

/// Growing and shrinking of a running machine.
#[async_trait]
pub trait Hotplug: Send + Sync {
    /// Brings the machine to that many processors and that much memory, as near
    /// as it can, and says what it has now. A guest that does not give back in
    /// time what it should is no error: it is in what is said.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for a size that the
    /// machine cannot ever have: less than at boot, or more than
    /// [`MachineSize`](crate::MachineSize) allows.
    async fn resize(
        &self,
        vcpus: u32,
        memory: crate::MemorySize,
    ) -> Result<(u32, crate::MemorySize)>;
}

/// Attaching and detaching of disks of a running machine.
#[async_trait]
pub trait DiskPlug: Send + Sync {
    /// Attaches a disk. The guest finds it by its serial number, a moment later.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) when the machine
    /// has a disk of that id, or as many as it can have.
    async fn attach(&self, disk: DiskConfig) -> Result<()>;

    /// Takes a disk away that [`DiskPlug::attach`] attached, and returns when
    /// nothing of the machine uses its file any more. The guest should have
    /// unmounted it.
    async fn detach(&self, id: &str) -> Result<()>;
}

/// Attaching and detaching of network devices of a running machine.
#[async_trait]
pub trait NicPlug: Send + Sync {
    /// Attaches a device. The guest finds it by its hardware address, a moment
    /// later.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) when the machine
    /// has a device of that address, or as many as it can have.
    async fn attach(&self, nic: NicConfig) -> Result<()>;

    /// Takes a device away that [`NicPlug::attach`] attached, by the hardware
    /// address that it had then, and returns when nothing of the machine uses
    /// what it was connected to any more.
    async fn detach(&self, mac: [u8; 6]) -> Result<()>;
}

/// Taking of memory from a running guest, and giving it back.
#[async_trait]
pub trait Balloon: Send + Sync {
    /// Asks the guest to give up so much memory in all, in pages of 4096 bytes; less
    /// than before gives it back. The guest comes to it when it can.
    ///
    /// # Errors
    /// When the machine has ended.
    async fn set_target(&self, memory: crate::MemorySize) -> Result<()>;

    /// How much of the guest's memory the host has back.
    ///
    /// # Errors
    /// When the machine has ended.
    async fn state(&self) -> Result<BalloonState>;
}

/// How much of a guest's memory the host has back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BalloonState {
    /// What the guest says that it has given up.
    pub given: crate::MemorySize,
    /// What it has reported as unused since its start, memory that was reported
    /// again included; it may use it again at any time.
    pub reported: crate::MemorySize,
}

/// Saving of a machine to disk.
#[async_trait]
pub trait Snapshot: Send + Sync {
    /// Saves memory and devices of the paused machine into `directory`.
    async fn save(&self, directory: &Path) -> Result<()>;
}

/// What a machine can do beyond running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Features {
    /// All processors can be stopped and resumed.
    pub pause: bool,
    /// Processors and memory can change while it runs.
    pub hotplug: bool,
    /// Disks can come and go while it runs.
    pub disks: bool,
    /// Network devices can come and go while it runs.
    #[serde(default)]
    pub nics: bool,
    /// It can be saved to disk.
    pub snapshot: bool,
    /// Memory can be taken from its guest, and given back.
    #[serde(default)]
    pub balloon: bool,
    /// It is a process of its own, which can be in a control group of its own.
    #[serde(default)]
    pub process: bool,
}

/// How to end a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopMode {
    /// At once; the guest is not asked.
    Kill,
    /// The guest is already powering itself off: wait for it so long, then kill.
    Await(Duration),
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VmExit {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset; it is not carried out.
    Reset,
    /// The guest's kernel panicked.
    Panic,
    /// [`Vm::stop`] or a drop killed it.
    Killed,
    /// The monitor died by itself.
    Crashed {
        /// Its exit status or signal, and its last words.
        reason: String,
    },
}

impl fmt::Display for VmExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PowerOff => "the guest powered itself off",
            Self::Reset => "the guest reset itself",
            Self::Panic => "the guest's kernel panicked",
            Self::Killed => "it was stopped",
            Self::Crashed { reason } => reason,
        })
    }
}

/// One phase of making and starting a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Its name, such as `spawn qemu`.
    pub name: &'static str,
    /// When it began.
    pub began: Instant,
    /// How long it took.
    pub took: Duration,
}

/// What a machine costs the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VmUsage {
    /// Bytes of host memory that hold the guest's memory.
    pub guest_memory: u64,
    /// Resident bytes of the monitor beside the guest's memory.
    pub overhead: u64,
    /// Processor time that the monitor used, guest included.
    pub cpu: Duration,
}
