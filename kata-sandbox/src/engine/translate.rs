//! A container's specification, as the guest is to have it: what was a path on
//! the host is a path in the guest.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use kata_devices::fs::Access;
use kata_protocol::agent::Storage;
use oci_spec::runtime as oci;

use super::guest_setup::SHM;
use super::shares::{Share, Shares};
use crate::error::{Context, ErrorKind, Result};
use crate::spec::{ContainerSpec, Rootfs};

/// Makes the agent's overlay driver make the directories it is told of.
const MAKE_DIRECTORIES: &str = "io.katacontainers.volume.overlayfs.create_directory";
/// Where the guest has overlays, and what they keep in memory.
const OVERLAYS: &str = "/run/kata-containers/overlays";

/// What a container needs of the guest.
#[derive(Debug)]
pub(super) struct Translated {
    pub(super) spec: oci::Spec,
    pub(super) shares: Vec<Share>,
    pub(super) storages: Vec<Storage>,
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
        },
    };
    translation.rootfs(&spec.rootfs)?;
    translation.mounts()?;
    translation.namespaces(id);
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
            Rootfs::Block { path, .. } => {
                let reason = format!(
                    "a root file system on the block device {} needs a device that no \
                     backend of this version has",
                    path.display()
                );
                let error = self.context.error(ErrorKind::Unsupported, reason);
                return Err(error.with_remedy("mount it on the host and use Rootfs::Dir"));
            }
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

    fn mounts(&mut self) -> Result<()> {
        let mut mounts = self.made.spec.mounts().clone().unwrap_or_default();
        for (index, mount) in mounts.iter_mut().enumerate() {
            if is_bind(mount) {
                let source = self.bind_source(index, mount)?;
                mount
                    .set_source(Some(source.into()))
                    .set_typ(Some("bind".to_owned()));
            }
        }
        self.made.spec.set_mounts(Some(mounts));
        Ok(())
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
        let source = match self.bundle {
            Some(bundle) => bundle.join(source),
            None => source.clone(),
        };
        let read_only = mount
            .options()
            .iter()
            .flatten()
            .any(|option| option == "ro");
        let access = if read_only {
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
        if !path.is_absolute() {
            let reason = format!("{what} is {shown}, which is not absolute");
            return Err(self.context.invalid(reason));
        }
        // Symbolic links on the host are followed here and now, not in the guest.
        let real = path.canonicalize().map_err(|source| {
            let reason = format!("{what} is {shown}, which cannot be used");
            self.context.invalid(reason).caused_by(source)
        })?;
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
