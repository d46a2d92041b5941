//! The mounts of a container, made in its new mount namespace.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use kata_protocol::agent::{Linux, Mount};
use kata_protocol::ttrpc::Status;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::copy_up;
use super::id_map;
use super::mount_options::Options;
use crate::files::{
    self, Attributes, Kind, RDONLY, Root, Volumes, attach, clone_open, clone_tree, kind, name,
};
use crate::process::{Context as _, Field as _, refuse};

/// A mount, and the user namespace that maps its ids if they are mapped. That
/// is made by the agent: to a copy in a new pid namespace, /proc is foreign.
#[derive(Debug)]
pub(super) struct Mapped {
    mount: Mount,
    ids: Option<OwnedFd>,
}

/// What the mounts of a specification need before there is a process.
///
/// # Errors
/// When mappings are wrong.
pub(super) fn plan(mounts: Vec<Mount>, linux: &Linux) -> Result<Vec<Mapped>, Status> {
    let plan = |(index, mount)| Mapped::new(mount, linux).field(|| format!("mounts[{index}]"));
    mounts.into_iter().enumerate().map(plan).collect()
}

impl Mapped {
    /// Mappings that the mount does not have itself are the container's.
    fn new(mount: Mount, linux: &Linux) -> Result<Self, Status> {
        let (mut uids, mut gids) = (&mount.uid_mappings, &mount.gid_mappings);
        let wants = |option: &String| option == "idmap" || option == "ridmap";
        let own = !uids.is_empty() || !gids.is_empty();
        if !own && mount.options.iter().any(wants) {
            (uids, gids) = (&linux.uid_mappings, &linux.gid_mappings);
            if uids.is_empty() || gids.is_empty() {
                return Err(refuse(
                    "idmap needs mappings, of the mount or of the container",
                ));
            }
        }
        let mapped = !uids.is_empty() || !gids.is_empty();
        let ids = mapped.then(|| id_map::namespace(uids, gids)).transpose()?;
        Ok(Self { mount, ids })
    }

    /// The descriptor that must be kept until it is mounted.
    pub(super) fn keep(&self) -> Option<RawFd> {
        self.ids.as_ref().map(|fd| fd.as_raw_fd())
    }

    /// Where it is mounted.
    pub(super) fn destination(&self) -> &str {
        &self.mount.destination
    }

    /// What it shows, if it is a bind mount.
    pub(super) fn bind_source(&self) -> Option<&str> {
        let bind = |option: &String| option == "bind" || option == "rbind";
        let is_bind = self.mount.r#type == "bind" || self.mount.options.iter().any(bind);
        is_bind.then_some(&self.mount.source)
    }

    /// Whether it is to be read-only.
    pub(super) fn is_read_only(&self) -> bool {
        Options::parse(&self.mount.options).is_ok_and(|options| options.is_read_only())
    }
}

/// Mounts one after the other.
pub(super) fn mount_all(volumes: &Volumes, root: &Root, mounts: &[Mapped]) -> Result<(), Status> {
    for (index, mapped) in mounts.iter().enumerate() {
        let mount = &mapped.mount;
        let (source, destination) = (&mount.source, &mount.destination);
        one(volumes, root, mapped)
            .field(|| format!("mounts[{index}]: mount {source} on {destination}"))?;
    }
    Ok(())
}

fn one(volumes: &Volumes, root: &Root, mapped: &Mapped) -> Result<(), Status> {
    let mount = &mapped.mount;
    let options = Options::parse(&mount.options)?;
    let destination = Path::new(&mount.destination);
    if !destination.is_absolute() || destination == Path::new("/") {
        return Err(refuse("the destination is not a path below /"));
    }
    if options.remount {
        return remount(root, destination, &options);
    }
    if options.bind.is_some() || mount.r#type == "bind" {
        bind(volumes, root, mapped, &options)?;
    } else {
        file_system(root, mount, &options)?;
    }
    for flags in &options.propagation {
        let mounted = root
            .open(destination, OFlags::PATH)
            .context(|| "find it again")?;
        rustix::mount::mount_change(name(&mounted), *flags).context(|| "set its propagation")?;
    }
    Ok(())
}

fn bind(volumes: &Volumes, root: &Root, mapped: &Mapped, options: &Options) -> Result<(), Status> {
    let mount = &mapped.mount;
    let below = options.bind == Some(true);
    let source = volumes
        .open(Path::new(&mount.source))
        .and_then(|source| clone_open(source, below))
        .context(|| format!("the source {}", mount.source))?;
    if !options.attributes.is_empty() {
        files::set_attributes(&source, options.attributes, false)
            .context(|| "apply its options")?;
    }
    if !options.recursive.is_empty() {
        files::set_attributes(&source, options.recursive, true)
            .context(|| "apply its recursive options")?;
    }
    if let Some(ids) = &mapped.ids {
        let recursive = options.map_ids.unwrap_or(below);
        files::map_ids(&source, ids, recursive).context(|| "map its ids")?;
    }
    let kind = kind(&source).context(|| "look at the source")?;
    let target = root.open_or_make(Path::new(&mount.destination), kind)?;
    attach(&source, &target).context(|| "attach it")
}

/// Changes what is mounted there already.
fn remount(root: &Root, destination: &Path, options: &Options) -> Result<(), Status> {
    let mounted = root
        .open(destination, OFlags::PATH)
        .context(|| "find what is mounted there")?;
    files::set_attributes(&mounted, options.attributes, false).context(|| "apply its options")?;
    files::set_attributes(&mounted, options.recursive, true)
        .context(|| "apply its recursive options")
}

fn file_system(root: &Root, mount: &Mount, options: &Options) -> Result<(), Status> {
    let destination = Path::new(&mount.destination);
    let target = root.open_or_make(destination, Kind::Directory)?;
    let kind = match mount.r#type.as_str() {
        // The guest has cgroup v2 only.
        "cgroup" => "cgroup2",
        "" => return Err(refuse("it has neither a type nor the option bind")),
        kind => kind,
    };
    // Nodes are still to be made in /dev; it becomes read-only with the root.
    let mut flags = options.flags();
    flags.set(
        MountFlags::RDONLY,
        options.is_read_only() && destination != Path::new("/dev"),
    );
    let source = if mount.source.is_empty() {
        kind
    } else {
        &mount.source
    };
    let data = if kind == "cgroup2" { "" } else { &options.data };
    if options.copy_up {
        if kind != "tmpfs" {
            return Err(refuse("tmpcopyup is for a tmpfs"));
        }
        let mount = |flags| mount_file_system(source, &target, kind, flags, data);
        return copied_up(root, destination, mount, flags);
    }
    match mount_file_system(source, &target, kind, flags, data) {
        // In a user namespace that does not own the network namespace: what
        // the guest has, unless the container has it whole.
        Err(Errno::PERM) if kind == "sysfs" => {
            let source = clone_tree(Path::new("/sys"), true).context(|| "find /sys")?;
            let attributes = Attributes {
                set: options.attributes.set,
                clear: 0,
            };
            files::set_attributes(&source, attributes, true).context(|| "apply its options")?;
            attach(&source, &target).context(|| "attach /sys")
        }
        Err(Errno::NODEV) => {
            Err(Errno::NODEV).context(|| format!("the guest's kernel has no file system {kind}"))
        }
        result => result.context(|| "mount it"),
    }
}

/// Copies what a tmpfs is to cover into it.
fn copied_up(
    root: &Root,
    destination: &Path,
    mount: impl FnOnce(MountFlags) -> Result<(), Errno>,
    flags: MountFlags,
) -> Result<(), Status> {
    let open = OFlags::RDONLY | OFlags::DIRECTORY;
    let covered = root
        .open(destination, open)
        .context(|| "open what it covers")?;
    mount(flags.difference(MountFlags::RDONLY)).context(|| "mount it")?;
    let mounted = root.open(destination, open).context(|| "open it")?;
    copy_up::copy(&covered, &mounted).context(|| "tmpcopyup: copy what it covers")?;
    if flags.contains(MountFlags::RDONLY) {
        make_read_only(&mounted)?;
    }
    Ok(())
}

fn mount_file_system(
    source: &str,
    target: &OwnedFd,
    kind: &str,
    flags: MountFlags,
    data: &str,
) -> Result<(), Errno> {
    let data = std::ffi::CString::new(data).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount(source, name(target), kind, flags, data.as_c_str())
}

/// Makes what is mounted on `path` read-only.
pub(super) fn make_read_only(mount: impl AsFd) -> Result<(), Status> {
    files::set_attributes(
        mount,
        Attributes {
            set: RDONLY,
            clear: 0,
        },
        false,
    )
    .context(|| "make a mount read-only")
}
