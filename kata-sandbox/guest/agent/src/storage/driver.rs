//! The storage drivers.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kata_protocol::agent::Storage;
use kata_protocol::ttrpc::{Code, Status};
use rustix::fs::{Mode, chmod, chown};
use rustix::mount::{MountFlags, UnmountFlags, mount as mount_now, mount_remount, unmount};
use rustix::process::Gid;

use super::options::{self, Options};
use super::{block, group};
use crate::files::{Kind, Volumes, attach, clone_open, kind, name};
use crate::process::in_child;
use crate::service::{internal, invalid};

/// The drivers that this agent has.
pub(crate) const DRIVERS: [&str; 7] = [
    "virtio-fs",
    "ephemeral",
    "local",
    "overlayfs",
    "blk",
    "mmioblk",
    "bind",
];

/// A bind mount whose changes programs could watch for. A file system that is
/// shared from the host reports none, and looking again and again is no watching.
const WATCHABLE: &str = "watchable-bind";

/// A driver option of overlayfs: make the upper and work directories.
const CREATE_DIRECTORY: &str = "io.katacontainers.volume.overlayfs.create_directory";

/// How a storage is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undo {
    /// It is a mount.
    Unmount,
    /// It is a directory of the guest, with what containers put into it.
    Remove,
}

impl Undo {
    /// Undoes the storage on `target`.
    pub(super) async fn run(self, target: &Path) -> Result<(), Status> {
        let target = target.to_owned();
        let undo = move || {
            let result = match self {
                Self::Unmount => unmount(&target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
                    .map_err(io::Error::from),
                Self::Remove => unmount(&target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
                    .map_err(io::Error::from)
                    .and_then(|()| std::fs::remove_dir_all(&target)),
            };
            result.map(|()| Vec::new()).map_err(|error| {
                format!("cannot undo the storage on {}: {error}", target.display())
            })
        };
        in_child(&[], undo).await.map(drop)
    }
}

/// Mounts `storage` on `target`.
pub(super) async fn mount(
    storage: &Storage,
    target: &Path,
    limit: Duration,
) -> Result<Undo, Status> {
    let plan = Plan::new(storage, target)?;
    match storage.driver.as_str() {
        "virtio-fs" => plan.kind("virtiofs").mount_here(),
        "ephemeral" => plan.ephemeral(),
        "local" => plan.local(),
        "overlayfs" => plan.overlay(&storage.driver_options).mount_in_child().await,
        "blk" | "mmioblk" => {
            let disk = block::wait(&storage.source, limit).await?;
            plan.source(disk.path).mount_in_child().await
        }
        "bind" => plan.bind().await,
        WATCHABLE => Err(Status::new(
            Code::Unimplemented,
            "the storage driver \"watchable-bind\" is not supported: changes of a shared file are \
             seen, but nobody is told of them; use \"bind\"",
        )),
        other => Err(Status::new(
            Code::Unimplemented,
            format!(
                "there is no storage driver {other:?}; there are {}",
                DRIVERS.join(", ")
            ),
        )),
    }
}

/// What is to be mounted where.
#[derive(Debug)]
struct Plan {
    source: PathBuf,
    target: PathBuf,
    kind: String,
    options: Options,
    directories: Vec<PathBuf>,
    group: Option<group::Change>,
    raw: Vec<String>,
}

impl Plan {
    fn new(storage: &Storage, target: &Path) -> Result<Self, Status> {
        if storage.source.contains('\0') || storage.fstype.contains('\0') {
            return Err(invalid("a storage has a zero byte in its source or type"));
        }
        Ok(Self {
            source: PathBuf::from(&storage.source),
            target: target.to_owned(),
            kind: storage.fstype.clone(),
            options: options::parse(&storage.options)?,
            directories: Vec::new(),
            group: storage.fs_group.as_ref().map(group::Change::from),
            raw: storage.options.clone(),
        })
    }

    fn kind(mut self, kind: &str) -> Self {
        kind.clone_into(&mut self.kind);
        self
    }

    fn source(mut self, source: PathBuf) -> Self {
        self.source = source;
        self
    }

    /// An overlay, whose upper and work directories may be asked to be made.
    fn overlay(mut self, driver_options: &[String]) -> Self {
        if driver_options
            .iter()
            .any(|option| option == CREATE_DIRECTORY)
        {
            let named = |name: &str| {
                let mut all = self.raw.iter().flat_map(|list| list.split(','));
                all.find_map(|option| option.strip_prefix(name))
                    .map(PathBuf::from)
            };
            self.directories = [named("upperdir="), named("workdir=")]
                .into_iter()
                .flatten()
                .collect();
        }
        if self.source.as_os_str().is_empty() {
            self.source = PathBuf::from("overlay");
        }
        self.kind("overlay")
    }

    /// Memory of the guest; nothing to wait for.
    fn ephemeral(self) -> Result<Undo, Status> {
        let plan = if self.kind.is_empty() {
            self.kind("tmpfs")
        } else {
            self
        };
        if !matches!(plan.kind.as_str(), "tmpfs" | "hugetlbfs") {
            return Err(invalid(format!(
                "an ephemeral storage of type {:?}",
                plan.kind
            )));
        }
        plan.mount().map_err(internal(&plan.what()))?;
        Ok(Undo::Unmount)
    }

    /// A directory of the guest.
    fn local(&self) -> Result<Undo, Status> {
        let mode = self
            .raw
            .iter()
            .find_map(|option| option.strip_prefix("mode="));
        let mode = match mode {
            Some(text) => u32::from_str_radix(text, 8)
                .map_err(|_| invalid(format!("{text:?} is no mode of a directory")))?,
            None => 0o755,
        };
        let make = || {
            let directory = make(&self.target, Kind::Directory)?;
            let path = name(&directory);
            if let Some(change) = &self.group {
                chown(&path, None, Some(Gid::from_raw(change.group)))?;
            }
            chmod(&path, Mode::from_raw_mode(mode))?;
            // A mount of its own: what containers put into it is theirs.
            attach(clone_open(&directory, false)?, &directory)?;
            Ok::<(), io::Error>(())
        };
        make().map_err(internal(&format!(
            "make the directory {}",
            self.target.display()
        )))?;
        Ok(Undo::Remove)
    }

    /// Mounts what the host serves itself: mounting asks it nothing that it must
    /// answer, so there is nothing to wait for that would be worth a child.
    fn mount_here(self) -> Result<Undo, Status> {
        self.mount().map_err(internal(&self.what()))?;
        Ok(Undo::Unmount)
    }

    async fn mount_in_child(self) -> Result<Undo, Status> {
        if self.kind.is_empty() {
            return Err(invalid(format!(
                "the storage {} has no type",
                self.source.display()
            )));
        }
        let what = self.what();
        let work = move || match self.mount() {
            Ok(()) => Ok(Vec::new()),
            Err(error) => Err(format!("cannot {what}: {error}")),
        };
        in_child(&[], work).await?;
        Ok(Undo::Unmount)
    }

    async fn bind(self) -> Result<Undo, Status> {
        let what = self.what();
        let work = move || match self.bind_now() {
            Ok(()) => Ok(Vec::new()),
            Err(error) => Err(format!("cannot {what}: {error}")),
        };
        in_child(&[], work).await?;
        Ok(Undo::Unmount)
    }

    fn what(&self) -> String {
        format!(
            "mount {} of type {:?} on {}",
            self.source.display(),
            self.kind,
            self.target.display()
        )
    }

    fn mount(&self) -> io::Result<()> {
        for directory in &self.directories {
            make(directory, Kind::Directory)?;
        }
        let target = make(&self.target, Kind::Directory)?;
        let Options { flags, data } = &self.options;
        mount_now(
            &self.source,
            name(&target),
            self.kind.as_str(),
            *flags,
            data.as_c_str(),
        )?;
        self.group
            .as_ref()
            .map_or(Ok(()), |change| change.apply(&self.target))
    }

    fn bind_now(&self) -> io::Result<()> {
        let volumes = Volumes::now().map_err(io::Error::other)?;
        let tree = clone_open(volumes.open(&self.source)?, true)?;
        let target = make(&self.target, kind(&tree)?)?;
        attach(&tree, &target)?;
        let flags = self.options.flags;
        if !flags.is_empty() {
            mount_remount(name(&tree), MountFlags::BIND | flags, c"")?;
        }
        Ok(())
    }
}

/// Finds or makes what is to be mounted on; no link in a volume leads out of it.
fn make(path: &Path, kind: Kind) -> io::Result<OwnedFd> {
    let volumes = Volumes::now().map_err(io::Error::other)?;
    volumes.open_or_make(path, kind).map_err(io::Error::other)
}
