//! How QEMU's process is kept apart from its host.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

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
        binary: &Path,
        acceleration: Acceleration,
        has_extra_args: bool,
    ) -> Result<child::Confinement> {
        let user = self.user.map(|(uid, gid)| user(uid, gid, acceleration));
        let read_only = !has_extra_args && config.devices.spare_disks == 0;
        let needless = match self.namespaces {
            Namespaces::Shared => Vec::new(),
            // Without a list, what is busy stays so as long as the machine.
            _ => std::fs::read_to_string("/proc/self/mountinfo")
                .map(|mounts| needless(&mounts, &needed(config, binary)))
                .unwrap_or_default(),
        };
        Ok(child::Confinement {
            namespaces: self.namespaces,
            needless,
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

/// What QEMU opens by its name.
fn needed<'a>(config: &'a VmConfig, binary: &'a Path) -> Vec<&'a Path> {
    let disks = config.devices.disks.iter().map(|disk| &*disk.path);
    let files = [binary, &config.kernel, &config.run_dir];
    let files = files.into_iter().chain(config.initramfs.as_deref());
    files.chain(disks).collect()
}

/// Mounts of other containers' roots and network namespaces. A copy of them in a
/// namespace of QEMU's would keep them busy until the machine ends, where the
/// host's unmounting is not passed on: where the mount that they are on is not a
/// shared one (`mount_namespaces(7)`).
fn needless(mounts: &str, needed: &[&Path]) -> Vec<CString> {
    let mounts: Vec<_> = mounts.lines().filter_map(Mount::read).collect();
    let shared: BTreeSet<_> = mounts
        .iter()
        .filter(|it| it.shared)
        .map(|it| it.id)
        .collect();
    let is_needless = |mount: &&Mount<'_>| {
        ["nsfs", "overlay"].contains(&mount.kind)
            && mount.place != Path::new("/")
            && !shared.contains(mount.on)
            && !needed.iter().any(|path| path.starts_with(&mount.place))
    };
    let places = mounts.iter().filter(is_needless);
    let places = places.map(|mount| CString::new(mount.place.as_os_str().as_bytes()));
    places.filter_map(std::result::Result::ok).collect()
}

/// A line of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
struct Mount<'a> {
    id: &'a str,
    /// The id of the mount that it is on.
    on: &'a str,
    place: PathBuf,
    shared: bool,
    kind: &'a str,
}

impl<'a> Mount<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let (fields, rest) = line.split_once(" - ")?;
        let fields: Vec<_> = fields.split(' ').collect();
        let [id, on, _, _, place, _, ref tags @ ..] = fields[..] else {
            return None;
        };
        Some(Self {
            id,
            on,
            // A name with a space is written otherwise, and found nowhere.
            place: place.into(),
            shared: tags.iter().any(|tag| tag.starts_with("shared:")),
            kind: rest.split(' ').next()?,
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

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 0:20 / / rw,relatime - overlay overlay rw
23 22 0:21 / /run rw shared:5 - tmpfs tmpfs rw
24 23 0:4 net:[4026532001] /run/netns/passed-on rw shared:6 - nsfs nsfs rw
25 22 0:30 / /var/lib/c/merged rw - overlay overlay rw
26 22 0:4 net:[4026532002] /var/netns rw - nsfs nsfs rw
27 22 0:31 / /images rw - overlay overlay rw
28 22 0:32 / /data rw - ext4 /dev/sda rw
nonsense
";

    #[test]
    fn only_what_would_stay_busy_and_is_not_needed_is_taken_away() {
        let needed = [Path::new("/images/vmlinux"), Path::new("/usr/bin/qemu")];
        let found = needless(MOUNTS, &needed);
        assert_eq!(
            found,
            [c"/var/lib/c/merged".to_owned(), c"/var/netns".to_owned()]
        );
    }
}
