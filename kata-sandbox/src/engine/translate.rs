//! A container's specification, as the guest is to have it: what was a path on
//! the host is a path in the guest.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use kata_devices::fs::Access;
use kata_protocol::agent::Storage;
use oci_spec::runtime as oci;

use super::devices::{self, BlockDevice};
use super::disks::Wanted as WantedDisk;
use super::guest_setup::SHM;
use super::shares::{Share, Shares};
use crate::error::{Context, ErrorKind, Result};
use crate::spec::{ContainerSpec, Rootfs};

/// Makes the agent's overlay driver make the directories it is told of.
const MAKE_DIRECTORIES: &str = "io.katacontainers.volume.overlayfs.create_directory";
/// Where the guest has overlays, and what they keep in memory.
const OVERLAYS: &str = "/run/kata-containers/overlays";
/// Where the guest has root file systems that are on disks.
const DISKS: &str = "/run/kata-containers/disks";

/// What a container needs of the guest.
#[derive(Debug)]
pub(super) struct Translated {
    pub(super) spec: oci::Spec,
    pub(super) shares: Vec<Share>,
    pub(super) storages: Vec<Storage>,
    /// The disk with its root file system.
    pub(super) root_disk: Option<RootDisk>,
    /// Disks that it has as devices.
    pub(super) block_devices: Vec<BlockDevice>,
}

/// A disk with a container's root file system on it.
#[derive(Debug)]
pub(super) struct RootDisk {
    pub(super) disk: WantedDisk,
    /// How the guest mounts it, once the disk has a serial number.
    pub(super) storage: Storage,
}

/// Shares what the container needs. Touches the host's file systems: blocks.
pub(super) fn translate(
    shares: &Shares,
    id: &str,
    spec: &ContainerSpec,
    context: &Context,
) -> Result<Translated> {
    let mut translation = Translation {
        shares,
        id,
        bundle: spec.bundle.as_deref(),
        context,
        made: Translated {
            spec: spec.spec.clone(),
            shares: Vec::new(),
            storages: Vec::new(),
            root_disk: None,
            block_devices: devices::block_devices(&spec.spec, context)?,
        },
    };
    translation.rootfs(&spec.rootfs)?;
    translation.mounts()?;
    translation.namespaces(id);
    translation.labels();
    Ok(translation.made)
}

struct Translation<'a> {
    shares: &'a Shares,
    id: &'a str,
    bundle: Option<&'a Path>,
    context: &'a Context,
    made: Translated,
}

impl Translation<'_> {
    fn rootfs(&mut self, rootfs: &Rootfs) -> Result<()> {
        let read_only = self
            .made
            .spec
            .root()
            .as_ref()
            .and_then(oci::Root::readonly)
            .unwrap_or(false);
        let path = match rootfs {
            Rootfs::Dir(path) => {
                let access = if read_only {
                    Access::ReadOnly
                } else {
                    Access::ReadWrite
                };
                self.share_directory("the root file system", path, access)?
            }
            Rootfs::Overlay { lower, upper } => self.overlay(lower, upper.as_deref())?,
            Rootfs::Block { path, fstype } => self.root_disk(path, fstype, read_only)?,
        };
        let root = self.made.spec.root_mut().get_or_insert_default();
        root.set_path(path.into()).set_readonly(Some(read_only));
        Ok(())
    }

    /// Shares the layers, and has the guest put them together.
    fn overlay(&mut self, lower: &[PathBuf], upper: Option<&Path>) -> Result<String> {
        if lower.is_empty() {
            return Err(self
                .context
                .invalid("an overlay root file system has no lower directory"));
        }
        let mut lowers = Vec::new();
        for path in lower {
            let what = "a lower directory of the root file system";
            lowers.push(self.share_directory(what, path, Access::ReadOnly)?);
        }
        let name = self.made.shares[0].name().to_owned();
        let (upperdir, workdir) = match upper {
            Some(path) => {
                for part in ["fs", "work"] {
                    let part = path.join(part);
                    std::fs::create_dir_all(&part).map_err(|e| {
                        self.context
                            .io(format!("cannot make {}", part.display()), e)
                    })?;
                }
                let what = "the upper directory of the root file system";
                let shared = self.share_directory(what, path, Access::ReadWrite)?;
                (format!("{shared}/fs"), format!("{shared}/work"))
            }
            None => {
                let memory = format!("{OVERLAYS}/{name}.memory");
                self.made.storages.push(Storage {
                    driver: "ephemeral".into(),
                    source: "tmpfs".into(),
                    fstype: "tmpfs".into(),
                    options: vec!["nodev".into()],
                    mount_point: memory.clone(),
                    ..Storage::default()
                });
                (format!("{memory}/fs"), format!("{memory}/work"))
            }
        };
        let mount_point = format!("{OVERLAYS}/{name}");
        self.made.storages.push(Storage {
            driver: "overlayfs".into(),
            driver_options: vec![MAKE_DIRECTORIES.into()],
            source: "overlay".into(),
            fstype: "overlay".into(),
            options: vec![
                format!("lowerdir={}", lowers.join(":")),
                format!("upperdir={upperdir}"),
                format!("workdir={workdir}"),
            ],
            mount_point: mount_point.clone(),
            ..Storage::default()
        });
        Ok(mount_point)
    }

    /// Has the guest mount a disk.
    fn root_disk(&mut self, path: &Path, fstype: &str, read_only: bool) -> Result<String> {
        let path = self.real("the root file system", path)?;
        if fstype.is_empty() {
            let reason = "a root file system on a disk has no type";
            return Err(self.context.invalid(reason));
        }
        let mount_point = format!("{DISKS}/{}", crate::id::directory_name(self.id));
        self.made.root_disk = Some(RootDisk {
            disk: WantedDisk {
                field: "the root file system".into(),
                path,
                read_only,
            },
            storage: Storage {
                driver: "blk".into(),
                fstype: fstype.to_owned(),
                options: read_only.then(|| "ro".to_owned()).into_iter().collect(),
                mount_point: mount_point.clone(),
                ..Storage::default()
            },
        });
        Ok(mount_point)
    }

    fn mounts(&mut self) -> Result<()> {
        let mounts = self.made.spec.mounts().clone().unwrap_or_default();
        let mut translated = Vec::with_capacity(mounts.len());
        for (index, mut mount) in mounts.into_iter().enumerate() {
            match self.bind(index, &mount)? {
                Bind::None => {}
                Bind::Source(source) => {
                    mount
                        .set_source(Some(source.into()))
                        .set_typ(Some("bind".to_owned()));
                }
                Bind::FileSystem(kind) => {
                    let options = mount.options().clone().unwrap_or_default();
                    let options = options.into_iter().filter(|it| !is_for_binds(it));
                    mount
                        .set_options(Some(options.collect()))
                        .set_source(Some(kind.into()))
                        .set_typ(Some(kind.to_owned()));
                }
                Bind::Disk(disk) => {
                    self.block_device(disk, mount.destination());
                    continue;
                }
            }
            translated.push(mount);
        }
        self.made.spec.set_mounts(Some(translated));
        Ok(())
    }

    /// Gives the container a disk under a path, as an entry of `linux.devices`.
    fn block_device(&mut self, disk: WantedDisk, path: &Path) {
        let mut rule = oci::LinuxDeviceCgroup::default();
        let access = if disk.read_only { "r" } else { "rw" };
        // The agent puts the guest's numbers in the place of these.
        let (major, minor) = device_number(&disk.path);
        rule.set_allow(true)
            .set_typ(Some(oci::LinuxDeviceType::B))
            .set_major(Some(major))
            .set_minor(Some(minor))
            .set_access(Some(access.to_owned()));
        let mut device = oci::LinuxDevice::default();
        device
            .set_path(path.to_owned())
            .set_typ(oci::LinuxDeviceType::B)
            .set_major(major)
            .set_minor(minor)
            .set_file_mode(Some(if disk.read_only { 0o440 } else { 0o660 }));
        let linux = self.made.spec.linux_mut().get_or_insert_default();
        linux.devices_mut().get_or_insert_default().push(device);
        let resources = linux.resources_mut().get_or_insert_default();
        resources.devices_mut().get_or_insert_default().push(rule);
        self.made.block_devices.push(BlockDevice {
            disk,
            path: path.to_owned(),
        });
    }

    /// What becomes of a mount that may be a bind mount.
    fn bind(&mut self, index: usize, mount: &oci::Mount) -> Result<Bind> {
        if !is_bind(mount) {
            return Ok(Bind::None);
        }
        if let Some(kind) = mount.source().as_deref().and_then(of_every_kernel) {
            return Ok(Bind::FileSystem(kind));
        }
        if let Some(source) = mount.source().as_deref()
            && mount.destination() != Path::new("/dev/shm")
            && is_block_device(&self.in_bundle(source))
        {
            let field = format!("mounts[{index}].source");
            let path = self.real(&field, &self.in_bundle(source))?;
            let read_only = is_read_only(mount);
            return Ok(Bind::Disk(WantedDisk {
                field,
                path,
                read_only,
            }));
        }
        self.bind_source(index, mount).map(Bind::Source)
    }

    fn in_bundle(&self, source: &Path) -> PathBuf {
        match self.bundle {
            Some(bundle) => bundle.join(source),
            None => source.to_owned(),
        }
    }

    /// Where the guest has what is to be mounted.
    fn bind_source(&mut self, index: usize, mount: &oci::Mount) -> Result<String> {
        // Memory shared over a file system would not be memory that is shared:
        // the sandbox's containers have theirs in the guest.
        if mount.destination() == Path::new("/dev/shm") {
            return Ok(SHM.to_owned());
        }
        let field = format!("mounts[{index}].source");
        let Some(source) = mount.source() else {
            return Err(self
                .context
                .invalid(format!("{field} is missing from a bind mount")));
        };
        let source = self.in_bundle(source);
        let access = if is_read_only(mount) {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        };
        let what = format!("{field}, mounted at {},", mount.destination().display());
        self.share(&what, &source, access, Wanted::DirectoryOrFile)
    }

    fn share_directory(&mut self, what: &str, path: &Path, access: Access) -> Result<String> {
        self.share(what, path, access, Wanted::Directory)
    }

    fn share(&mut self, what: &str, path: &Path, access: Access, wanted: Wanted) -> Result<String> {
        let shown = path.display();
        let real = self.real(what, path)?;
        let kind = std::fs::metadata(&real)
            .map_err(|e| {
                self.context
                    .io(format!("{what} is {shown}, which cannot be used"), e)
            })?
            .file_type();
        if !(kind.is_dir() || (kind.is_file() && wanted == Wanted::DirectoryOrFile)) {
            return Err(self.refuse(&format!("{what} is {shown}"), kind));
        }
        let share = self
            .shares
            .add(self.id, &real, access)
            .map_err(|e| self.context.share(format!("cannot share {shown}"), e))?;
        let guest = share.guest_path();
        self.made.shares.push(share);
        Ok(guest)
    }

    /// Symbolic links on the host are followed here and now, not in the guest.
    fn real(&self, what: &str, path: &Path) -> Result<PathBuf> {
        let shown = path.display();
        if !path.is_absolute() {
            let reason = format!("{what} is {shown}, which is not absolute");
            return Err(self.context.invalid(reason));
        }
        path.canonicalize().map_err(|source| {
            let reason = format!("{what} is {shown}, which cannot be used");
            self.context.invalid(reason).caused_by(source)
        })
    }

    fn refuse(&self, what: &str, kind: std::fs::FileType) -> crate::Error {
        let name = match kind {
            kind if kind.is_file() => {
                return self
                    .context
                    .invalid(format!("{what}, a file and no directory"));
            }
            kind if kind.is_socket() => "a socket",
            kind if kind.is_fifo() => "a FIFO",
            kind if kind.is_block_device() => "a block device",
            _ => "a device",
        };
        let reason = format!("{what}, {name}, which a guest cannot share with its host");
        self.context.error(ErrorKind::Unsupported, reason)
    }

    /// Namespaces of the host mean nothing in the guest: each becomes one of
    /// the container's own, and the network is the sandbox's.
    fn namespaces(&mut self, id: &str) {
        let linux = self.made.spec.linux_mut().get_or_insert_default();
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        namespaces.retain(|namespace| namespace.typ() != oci::LinuxNamespaceType::Network);
        for namespace in &mut namespaces {
            namespace.set_path(None);
        }
        linux.set_namespaces(Some(namespaces));
        linux.set_cgroups_path(Some(format!("/kata/{id}").into()));
    }

    /// Labels are for security modules of the host's kernel.
    fn labels(&mut self) {
        if let Some(process) = self.made.spec.process_mut() {
            process.set_apparmor_profile(None).set_selinux_label(None);
        }
        if let Some(linux) = self.made.spec.linux_mut() {
            linux.set_mount_label(None);
        }
    }
}

/// What a mount is in the guest.
enum Bind {
    /// No bind mount: as it is.
    None,
    /// A bind mount of this path of the guest.
    Source(String),
    /// A file system of the guest's own kernel.
    FileSystem(&'static str),
    /// A device.
    Disk(WantedDisk),
}

/// File systems by which a kernel shows itself: the host's would tell a container
/// nothing of the kernel that it runs on.
fn of_every_kernel(source: &Path) -> Option<&'static str> {
    match source.to_str()? {
        "/proc" => Some("proc"),
        "/sys" => Some("sysfs"),
        path if path == "/sys/fs/cgroup" || path.starts_with("/sys/fs/cgroup/") => Some("cgroup"),
        _ => None,
    }
}

/// Options that only a bind mount has.
fn is_for_binds(option: &str) -> bool {
    matches!(option, "bind" | "rbind")
}

fn is_read_only(mount: &oci::Mount) -> bool {
    let mut options = mount.options().iter().flatten();
    options.any(|option| option == "ro" || option == "rro")
}

fn is_block_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device())
}

/// The number of a device; of nothing, one that no device has.
fn device_number(path: &Path) -> (i64, i64) {
    use std::os::unix::fs::MetadataExt as _;
    let device = std::fs::metadata(path).map_or(0, |found| found.rdev());
    (
        rustix::fs::major(device).into(),
        rustix::fs::minor(device).into(),
    )
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Directory,
    DirectoryOrFile,
}

fn is_bind(mount: &oci::Mount) -> bool {
    let by_option = || {
        mount
            .options()
            .iter()
            .flatten()
            .any(|option| option == "bind" || option == "rbind")
    };
    mount.typ().as_deref() == Some("bind") || by_option()
}

#[cfg(test)]
#[path = "translate_tests.rs"]
mod tests;
