//! What a description must be before anything is made.

use std::fs;
use std::path::Path;

use crate::config::{Devices, MachineSize, MemorySize, VmConfig};
use crate::disk::DiskConfig;
use crate::error::{Error, Result};
use crate::kernel::{Format, KernelTraits, Known, inspect_initramfs, inspect_kernel};
use crate::medium::{Identity, Medium};
use crate::nic::{Mac, NicConfig};

/// More than any supported machine has.
const MOST_VCPUS: u32 = 255;
/// Less than any kernel boots with.
const LEAST_MEMORY: MemorySize = MemorySize::mib(16);
/// Memory comes and goes in such pieces: what a processor maps at once.
pub(crate) const MEMORY_GRAIN: u64 = 2 << 20;
/// Ports that the root of PCI Express has room for beside other devices.
const MOST_SPARES: u32 = 16;

/// What a backend takes on this architecture.
#[derive(Debug)]
pub(crate) struct Rules {
    /// Its name.
    pub(crate) backend: &'static str,
    /// Whether its machines run at all.
    pub(crate) supported: bool,
    /// Kernels that its machines load.
    pub(crate) kernels: &'static [Format],
    /// The longest command line that its kernels take.
    pub(crate) longest_command_line: usize,
}

/// Checks everything that can be checked without making anything; reads files.
pub(crate) fn validate(config: &VmConfig, known: &Known, rules: &Rules) -> Result<KernelTraits> {
    if !rules.supported {
        return Err(Error::Unsupported {
            backend: rules.backend,
            operation: "this architecture",
        });
    }
    size(&config.size)?;
    id(&config.id)?;
    run_dir(&config.run_dir)?;
    devices(config)?;
    let kernel = inspect_kernel(&config.kernel, rules.kernels, known)?;
    if let Some(initramfs) = &config.initramfs {
        inspect_initramfs(initramfs)?;
    }
    Ok(kernel)
}

/// Checks the command line that the kernel will get.
pub(crate) fn command_line(line: &str, rules: &Rules) -> Result<()> {
    let most = rules.longest_command_line;
    if line.len() > most {
        let length = line.len();
        return wrong(
            "command_line",
            format!("{length} bytes, and the kernel takes {most}"),
        );
    }
    if line.chars().any(|c| c.is_control()) {
        return wrong(
            "command_line",
            "it has a control character in it".to_owned(),
        );
    }
    Ok(())
}

fn wrong<T>(field: &'static str, reason: String) -> Result<T> {
    Err(Error::InvalidConfig { field, reason })
}

fn size(size: &MachineSize) -> Result<()> {
    let MachineSize {
        vcpus,
        max_vcpus,
        memory,
        max_memory,
    } = *size;
    if vcpus == 0 || vcpus > MOST_VCPUS {
        return wrong(
            "vcpus",
            format!("{vcpus} is not between 1 and {MOST_VCPUS}"),
        );
    }
    if max_vcpus < vcpus || max_vcpus > MOST_VCPUS {
        return wrong(
            "max_vcpus",
            format!("{max_vcpus} is not between {vcpus} and {MOST_VCPUS}"),
        );
    }
    if memory < LEAST_MEMORY {
        return wrong("memory", format!("{memory} is below {LEAST_MEMORY}"));
    }
    if memory.as_bytes() % (1 << 20) != 0 {
        return wrong("memory", format!("{memory} is not a whole number of MiB"));
    }
    if max_memory < memory {
        return wrong(
            "max_memory",
            format!("{max_memory} is below the {memory} at boot"),
        );
    }
    if !(max_memory.as_bytes() - memory.as_bytes()).is_multiple_of(MEMORY_GRAIN) {
        return wrong(
            "max_memory",
            format!("{max_memory} is not the {memory} at boot and a multiple of 2 MiB"),
        );
    }
    Ok(())
}

fn id(id: &str) -> Result<()> {
    if id.is_empty() || id.chars().any(|c| c.is_control()) {
        return wrong(
            "id",
            format!("{id:?} is empty or has a control character in it"),
        );
    }
    Ok(())
}

fn run_dir(dir: &Path) -> Result<()> {
    let failed = |source| Error::File {
        what: "run directory",
        path: dir.to_owned(),
        source,
    };
    let metadata = fs::metadata(dir).map_err(failed)?;
    if !metadata.is_dir() {
        return Err(failed(std::io::ErrorKind::NotADirectory.into()));
    }
    if !dir.is_absolute() {
        return wrong("run_dir", format!("{} is not absolute", dir.display()));
    }
    Ok(())
}

fn devices(config: &VmConfig) -> Result<()> {
    if let Some(vsock) = &config.devices.vsock {
        vsock.validate().map_err(|source| Error::Device {
            device: "vsock",
            source,
        })?;
    }
    let filesystems = &config.devices.filesystems;
    for (index, filesystem) in filesystems.iter().enumerate() {
        filesystem.validate().map_err(|source| Error::Device {
            device: "virtio-fs",
            source,
        })?;
        let tag = &filesystem.tag;
        if filesystems[..index].iter().any(|other| other.tag == *tag) {
            return wrong("tag", format!("{tag:?} is there twice"));
        }
    }
    for (index, nic) in config.devices.nics.iter().enumerate() {
        if let Some(fault) = nic.fault() {
            return wrong("nics", format!("of network device {index}, {fault}"));
        }
        let taken = |other: &NicConfig| other.mac == nic.mac;
        if config.devices.nics[..index].iter().any(taken) {
            let mac = Mac(nic.mac);
            return wrong("nics", format!("two have the hardware address {mac}"));
        }
    }
    disks(&config.devices)
}

fn disks(devices: &Devices) -> Result<()> {
    let (disks, nics) = (devices.spare_disks, devices.spare_nics);
    if disks > MOST_SPARES {
        return wrong("spare_disks", format!("{disks} is above {MOST_SPARES}"));
    }
    if nics > MOST_SPARES - disks {
        let reason = format!("{nics} and the {disks} of disks are above {MOST_SPARES}");
        return wrong("spare_nics", reason);
    }
    let mut known: Vec<(Identity, &DiskConfig)> = Vec::new();
    for disk in &devices.disks {
        self::disk(disk)?;
        let identity = Identity::of(&disk.path).map_err(unusable(disk))?;
        for (other, it) in &known {
            if it.id == disk.id {
                return wrong("disk", format!("{:?} is there twice", disk.id));
            }
            // Who only reads shares with others that do.
            if *other == identity && !(it.read_only && disk.read_only) {
                return wrong("disk", same(it, disk));
            }
        }
        known.push((identity, disk));
    }
    Ok(())
}

fn same(one: &DiskConfig, other: &DiskConfig) -> String {
    format!(
        "{:?} ({}) and {:?} ({}) are the same disk, and one of them may be written; \
         leave one out, or make both read-only",
        one.id,
        one.path.display(),
        other.id,
        other.path.display()
    )
}

fn unusable(disk: &DiskConfig) -> impl FnOnce(std::io::Error) -> Error {
    let path = disk.path.clone();
    |source| Error::File {
        what: "disk",
        path,
        source,
    }
}

/// Checks a disk, and says what it is made of; looks at the host.
pub(crate) fn disk(disk: &DiskConfig) -> Result<Medium> {
    disk.validate()?;
    Medium::of(&disk.path).map_err(unusable(disk))
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
