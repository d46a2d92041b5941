//! How QEMU's process is kept apart from its host.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

use rustix::process::geteuid;

use crate::child::{self, Namespaces};
use crate::config::VmConfig;
use crate::error::{Error, Result};
use crate::host_kvm::DEVICE;
use crate::medium::Medium;
use crate::probe::Acceleration;

/// How QEMU's process is kept apart from its host, beside the filter of system
/// calls that it always has (`-sandbox on`).
///
/// By default, where this process may make them (as root, with `CAP_SYS_ADMIN`),
/// QEMU has mount, network, IPC and UTS namespaces of its own: no network but
/// the devices that it is given, and file systems in which it can write to
/// nothing but its disks. They are writable with [`Qemu::extra_arg`] or spare
/// disks, of which it is not known what they write to.
///
/// ```
/// use kata_hypervisor::qemu::{Confinement, Qemu};
///
/// let qemu = Qemu::new().confinement(Confinement::required().user(65534, 65534));
/// ```
///
/// [`Qemu::extra_arg`]: super::Qemu::extra_arg
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Confinement {
    namespaces: Namespaces,
    user: Option<(u32, u32)>,
}

impl Default for Confinement {
    fn default() -> Self {
        Self {
            namespaces: Namespaces::IfAllowed,
            user: None,
        }
    }
}

impl Confinement {
    /// Namespaces of its own, or no machine.
    pub fn required() -> Self {
        Self {
            namespaces: Namespaces::Own,
            user: None,
        }
    }

    /// The namespaces of this process.
    pub fn none() -> Self {
        Self {
            namespaces: Namespaces::Shared,
            user: None,
        }
    }

    /// Runs QEMU as this user and group, with no other groups but the one that
    /// `/dev/kvm` belongs to, where it is used. Only root can. Kernel, initramfs
    /// and disks have to be accessible to that user.
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some((uid, gid));
        self
    }

    /// What it means for a machine.
    pub(super) fn prepare(
        &self,
        config: &VmConfig,
        acceleration: Acceleration,
        has_extra_args: bool,
    ) -> Result<child::Confinement> {
        let user = self.user.map(|(uid, gid)| user(uid, gid, acceleration));
        let read_only = !has_extra_args && config.devices.spare_disks == 0;
        Ok(child::Confinement {
            namespaces: self.namespaces,
            read_only,
            writable: if read_only {
                writable(config)?
            } else {
                Vec::new()
            },
            user: user.transpose()?,
        })
    }
}

fn user(uid: u32, gid: u32, acceleration: Acceleration) -> Result<child::User> {
    if !geteuid().is_root() {
        return Err(Error::InvalidConfig {
            field: "confinement",
            reason: format!("only root can run QEMU as user {uid}; leave the user out"),
        });
    }
    let mut groups = Vec::new();
    if acceleration == Acceleration::Kvm {
        // A device that cannot be looked at cannot be opened either, which
        // QEMU says better.
        groups.extend(std::fs::metadata(DEVICE).map(|device| device.gid()).ok());
    }
    Ok(child::User { uid, gid, groups })
}

/// Files that are disks which the guest writes to.
fn writable(config: &VmConfig) -> Result<Vec<CString>> {
    let mut files = Vec::new();
    for disk in config.devices.disks.iter().filter(|disk| !disk.read_only) {
        let failed = |source| Error::File {
            what: "disk",
            path: disk.path.clone(),
            source,
        };
        if Medium::of(&disk.path).map_err(failed)? == Medium::File {
            // By its own name, and not by a link's: that is what is mounted.
            let path = disk.path.canonicalize().map_err(failed)?;
            let path = CString::new(path.as_os_str().as_bytes());
            files.push(path.map_err(|error| failed(error.into()))?);
        }
    }
    Ok(files)
}
