//! What a start will make.

use std::fmt;
use std::path::PathBuf;

use kata_hypervisor::{KernelCommandLine, MachineSize, MemorySize};

use crate::builder::OnDrop;
use crate::engine::Blueprint;
use crate::image::Boot;
use crate::runtime::Shared;
use crate::supervisor::CONTROL_SOCKET;

/// What a virtual machine monitor needs beside the guest's memory, about.
const MONITOR: MemorySize = MemorySize::mib(40);
/// What a sandbox needs in this program, about.
const ENGINE: MemorySize = MemorySize::mib(8);
/// Bytes of guest memory that one byte of the host's page tables maps.
const PER_PAGE_TABLE_BYTE: u64 = 512;

/// Exactly what [`SandboxBuilder::start`](crate::SandboxBuilder::start) will
/// make. Prints for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// Id of the sandbox.
    pub sandbox: String,
    /// The hypervisor; several when the best of them will be taken.
    pub hypervisors: Vec<&'static str>,
    /// Processors and memory.
    pub size: MachineSize,
    /// What people call the guest image.
    pub image: String,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The guest's initramfs.
    pub initramfs: Option<PathBuf>,
    /// The kernel's command line; the hypervisor adds what its machine needs.
    pub command_line: KernelCommandLine,
    /// The machine's devices.
    pub devices: Vec<String>,
    /// What will be on the host while the sandbox runs, and not afterwards.
    pub host_changes: Vec<String>,
    /// Memory on the host beside the guest's own: an estimate.
    pub overhead: MemorySize,
}

impl Plan {
    pub(crate) fn new(shared: &Shared, blueprint: &Blueprint, boot: &Boot) -> Self {
        let run_dir = shared.state.run_dir(&blueprint.id);
        let tree = kata_devices::fs::SharedTree::default();
        let machine = blueprint.machine(boot, run_dir.clone(), &tree);
        let named = |name: &&str| blueprint.hypervisor.as_deref().is_none_or(|it| it == *name);
        Self {
            sandbox: blueprint.id.clone(),
            hypervisors: shared.backends.names().into_iter().filter(named).collect(),
            size: blueprint.size,
            image: boot.name.clone(),
            kernel: boot.kernel.clone(),
            initramfs: boot.initramfs.clone(),
            command_line: machine.command_line,
            devices: devices(&machine.devices),
            host_changes: host_changes(shared, blueprint),
            overhead: overhead(&blueprint.size),
        }
    }
}

fn devices(devices: &kata_hypervisor::Devices) -> Vec<String> {
    let vsock = devices.vsock.iter().map(|vsock| {
        format!(
            "vsock, context id {}, on {}",
            vsock.guest_cid,
            vsock.socket.display()
        )
    });
    let filesystems = devices
        .filesystems
        .iter()
        .map(|fs| format!("shared file system {:?}", fs.tag));
    let disks = devices.disks.iter().map(|disk| {
        let how = if disk.read_only { ", read-only" } else { "" };
        format!("disk {}{how}", disk.path.display())
    });
    let spare = devices.spare_disks;
    let spare = (spare > 0).then(|| format!("room for {spare} disks more"));
    let nics = devices.spare_nics;
    let nics = (nics > 0).then(|| format!("room for {nics} network interfaces more"));
    let rng = devices.rng.then(|| "entropy".to_owned());
    vsock
        .chain(filesystems)
        .chain(disks)
        .chain(spare)
        .chain(nics)
        .chain(rng)
        .collect()
}

/// What a sandbox needs on the host beside its guest's own memory, about.
pub(crate) fn overhead(size: &MachineSize) -> MemorySize {
    let page_tables = size.max_memory.as_bytes() / PER_PAGE_TABLE_BYTE;
    MemorySize::bytes(MONITOR.as_bytes() + ENGINE.as_bytes() + page_tables)
}

fn host_changes(shared: &Shared, blueprint: &Blueprint) -> Vec<String> {
    let run_dir = shared.state.run_dir(&blueprint.id);
    let journal = run_dir.parent().unwrap_or(&run_dir).display().to_string();
    let announcement = Blueprint::announcement_socket(&run_dir);
    let mut changes = vec![
        format!("directory {journal}, for this user alone"),
        format!(
            "socket {}, until the agent has announced itself",
            announcement.display()
        ),
    ];
    let home = match blueprint.on_drop {
        OnDrop::Kill => "this process",
        OnDrop::Detach => "the supervisor",
    };
    if blueprint.on_drop == OnDrop::Detach {
        let socket = shared.state.directory(&blueprint.id).join(CONTROL_SOCKET);
        changes.push("supervisor, a process that outlives this one".to_owned());
        changes.push(format!("socket {}, to reach it by", socket.display()));
    }
    changes.push(format!("virtual machine monitor, ended with {home}"));
    changes.push(format!(
        "threads of {home} for the vsock device and the shared file system"
    ));
    if let Some(cgroup) = &blueprint.cgroup {
        changes.push(format!("control group {cgroup}"));
    }
    if !blueprint.network.leaves_nothing() {
        changes.push(format!(
            "what the network {:?} sets up",
            blueprint.network.name()
        ));
    }
    changes
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MachineSize {
            vcpus,
            max_vcpus,
            memory,
            max_memory,
        } = self.size;
        writeln!(f, "sandbox       {}", self.sandbox)?;
        writeln!(f, "hypervisor    {}", self.hypervisors.join(" or "))?;
        writeln!(f, "processors    {vcpus}, at most {max_vcpus}")?;
        writeln!(f, "memory        {memory}, at most {max_memory}")?;
        writeln!(f, "guest image   {}", self.image)?;
        writeln!(f, "kernel        {}", self.kernel.display())?;
        if let Some(initramfs) = &self.initramfs {
            writeln!(f, "initramfs     {}", initramfs.display())?;
        }
        writeln!(f, "command line  {}", self.command_line)?;
        list(f, "devices", &self.devices)?;
        list(f, "on the host", &self.host_changes)?;
        write!(f, "overhead      about {} MiB", self.overhead.as_mib())
    }
}

fn list(f: &mut fmt::Formatter<'_>, title: &str, items: &[String]) -> fmt::Result {
    items.iter().enumerate().try_for_each(|(index, item)| {
        let title = if index == 0 { title } else { "" };
        writeln!(f, "{title:13} {item}")
    })
}
