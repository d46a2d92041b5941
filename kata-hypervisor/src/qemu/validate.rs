//! What a description must be before anything is made.

use std::fs;
use std::path::Path;

use super::boot::{inspect_initramfs, inspect_kernel};
use super::search::fits_socket;
use super::{NAME, arch};
use crate::config::{MachineSize, MemorySize, VmConfig};
use crate::error::{Error, Result};

/// More than any supported machine has.
const MOST_VCPUS: u32 = 255;
/// Less than any kernel boots with.
const LEAST_MEMORY: MemorySize = MemorySize::mib(16);
/// `struct virtio_fs_config` has 36 bytes for it (virtio 1.2, 5.11.4).
const LONGEST_TAG: usize = 36;

/// Checks everything that can be checked without making anything.
pub(super) fn validate(config: &VmConfig) -> Result<()> {
    if !arch::SUPPORTED {
        return Err(Error::Unsupported { backend: NAME, operation: "this architecture" });
    }
    size(&config.size)?;
    id(&config.id)?;
    run_dir(&config.run_dir)?;
    devices(config)?;
    inspect_kernel(&config.kernel, arch::KERNELS)?;
    config.initramfs.as_deref().map_or(Ok(()), inspect_initramfs)
}

/// Checks the command line that the kernel will get.
pub(super) fn command_line(line: &str) -> Result<()> {
    let most = arch::LONGEST_COMMAND_LINE;
    if line.len() > most {
        let length = line.len();
        return wrong("command_line", format!("{length} bytes, and the kernel takes {most}"));
    }
    if line.chars().any(|c| c.is_control()) {
        return wrong("command_line", "it has a control character in it".to_owned());
    }
    Ok(())
}

fn wrong<T>(field: &'static str, reason: String) -> Result<T> {
    Err(Error::InvalidConfig { field, reason })
}

fn size(size: &MachineSize) -> Result<()> {
    let MachineSize { vcpus, max_vcpus, memory, max_memory } = *size;
    if vcpus == 0 || vcpus > MOST_VCPUS {
        return wrong("vcpus", format!("{vcpus} is not between 1 and {MOST_VCPUS}"));
    }
    if max_vcpus < vcpus || max_vcpus > MOST_VCPUS {
        return wrong("max_vcpus", format!("{max_vcpus} is not between {vcpus} and {MOST_VCPUS}"));
    }
    if memory < LEAST_MEMORY {
        return wrong("memory", format!("{memory} is below {LEAST_MEMORY}"));
    }
    if memory.as_bytes() % (1 << 20) != 0 {
        return wrong("memory", format!("{memory} is not a whole number of MiB"));
    }
    if max_memory < memory {
        return wrong("max_memory", format!("{max_memory} is below the {memory} at boot"));
    }
    Ok(())
}

fn id(id: &str) -> Result<()> {
    if id.is_empty() || id.chars().any(|c| c.is_control()) {
        return wrong("id", format!("{id:?} is empty or has a control character in it"));
    }
    Ok(())
}

fn run_dir(dir: &Path) -> Result<()> {
    let failed = |source| Error::File { what: "run directory", path: dir.to_owned(), source };
    let metadata = fs::metadata(dir).map_err(failed)?;
    if !metadata.is_dir() {
        return Err(failed(std::io::ErrorKind::NotADirectory.into()));
    }
    if !dir.is_absolute() {
        return wrong("run_dir", format!("{} is not absolute", dir.display()));
    }
    // The longest name that is ever made in it.
    if !fits_socket(&dir.join("vhost-vsock.sock")) {
        return wrong("run_dir", format!("{} is too long for sockets in it", dir.display()));
    }
    Ok(())
}

fn devices(config: &VmConfig) -> Result<()> {
    if let Some(vsock) = &config.devices.vsock {
        if vsock.guest_cid < 3 || vsock.guest_cid >= u64::from(u32::MAX) {
            return wrong("guest_cid", format!("{} is reserved", vsock.guest_cid));
        }
        if !fits_socket(&vsock.socket) {
            let path = vsock.socket.display();
            return wrong("vsock socket", format!("{path} is too long for a socket"));
        }
    }
    let tags: Vec<&str> = config.devices.filesystems.iter().map(|fs| fs.tag.as_str()).collect();
    for (index, tag) in tags.iter().enumerate() {
        if tag.is_empty() || tag.len() > LONGEST_TAG || tag.chars().any(|c| c.is_control()) {
            return wrong("tag", format!("{tag:?} is not 1 to {LONGEST_TAG} bytes of text"));
        }
        if tags[..index].contains(tag) {
            return wrong("tag", format!("{tag:?} is there twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
