//! The control group on the host that a sandbox's processes are in.
//!
//! | host | where the group is |
//! |---|---|
//! | cgroup v2 | one directory in the unified hierarchy |
//! | cgroup v1 | one directory in each controller's hierarchy |
//! | both ("hybrid") | one directory in each of them |
//!
//! The group is named as `linux.cgroupsPath` of the OCI runtime specification is.
//! systemd's form is translated into the path that systemd gives such a unit;
//! systemd itself is not asked, and does not know of it.

mod hierarchy;
mod limits;
mod path;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) use limits::HostLimits;

use hierarchy::{Hierarchy, Version};

/// Controllers that children of a group in the unified hierarchy are to have.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// Why a control group cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    #[error("the control group {path:?} {reason}")]
    Path { path: String, reason: &'static str },
    #[error("this host has no control groups mounted")]
    None,
    #[error("cannot {operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl CgroupError {
    fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            operation,
            path: path.to_owned(),
            source,
        }
    }
}

/// Where a control group is, below the root of each hierarchy that the host has:
/// from `linux.cgroupsPath` of the OCI runtime specification, a path or systemd's
/// `slice:prefix:name`. [`SandboxBuilder::cgroup`](crate::SandboxBuilder::cgroup)
/// puts a sandbox there.
///
/// # Errors
/// `InvalidConfig` when it is neither, leads out of the hierarchy, or is its root.
pub fn cgroup_path(name: &str) -> crate::Result<PathBuf> {
    path::parse(name).map_err(|error| {
        let context = crate::error::Context::new("find control group", name);
        context.invalid(error.to_string())
    })
}

type Result<T> = std::result::Result<T, CgroupError>;

/// A control group that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The group in each hierarchy.
    groups: Vec<Group>,
    /// Directories that are not there yet, each after the one it is in.
    missing: Vec<PathBuf>,
}

/// A group in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    hierarchy: Hierarchy,
    directory: PathBuf,
}

/// A control group. Dropping it removes what was made of it.
#[derive(Debug)]
pub(crate) struct Cgroup {
    groups: Vec<Group>,
    made: Vec<PathBuf>,
    /// Where this process was before it entered.
    before: Vec<PathBuf>,
}

impl Plan {
    /// Looks at the host for where that group is, and makes nothing.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let mounts = Path::new("/proc/self/mountinfo");
        let mounts = std::fs::read_to_string(mounts).map_err(CgroupError::io("read", mounts))?;
        Self::on(&hierarchy::all(&mounts), name)
    }

    fn on(hierarchies: &[Hierarchy], name: &str) -> Result<Self> {
        let below = path::parse(name)?;
        if hierarchies.is_empty() {
            return Err(CgroupError::None);
        }
        let mut plan = Self {
            groups: Vec::new(),
            missing: Vec::new(),
        };
        for hierarchy in hierarchies {
            let mut directory = hierarchy.mount.clone();
            for part in below.components() {
                directory.push(part);
                if !directory.exists() {
                    plan.missing.push(directory.clone());
                }
            }
            plan.groups.push(Group {
                hierarchy: hierarchy.clone(),
                directory,
            });
        }
        Ok(plan)
    }

    /// What will be made, for the record.
    pub(crate) fn missing(&self) -> &[PathBuf] {
        &self.missing
    }

    /// Makes the group, and limits it.
    pub(crate) fn make(self, limits: &HostLimits) -> Result<Cgroup> {
        let mut cgroup = Cgroup {
            groups: self.groups,
            made: Vec::new(),
            before: Vec::new(),
        };
        for directory in self.missing {
            match std::fs::create_dir(&directory) {
                Ok(()) => cgroup.made.push(directory),
                // Somebody else was quicker, and will remove it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(CgroupError::io("make", &directory)(error)),
            }
        }
        for group in &cgroup.groups {
            group.prepare()?;
            limits.apply(group)?;
        }
        Ok(cgroup)
    }
}

impl Group {
    /// What a new group needs before a process can be in it.
    fn prepare(&self) -> Result<()> {
        match &self.hierarchy.version {
            Version::Unified => self.enable_controllers(),
            Version::Controllers(names) if names.iter().any(|name| name == "cpuset") => {
                self.inherit_cpus()
            }
            Version::Controllers(_) => Ok(()),
        }
    }

    /// Groups of the unified hierarchy have the controllers that the ones above
    /// them pass on. What cannot be passed on is not limited, which
    /// [`HostLimits::apply`] finds out.
    fn enable_controllers(&self) -> Result<()> {
        for above in self.above() {
            let path = above.join("cgroup.controllers");
            let there = std::fs::read_to_string(&path).map_err(CgroupError::io("read", &path))?;
            for name in there.split_whitespace() {
                if CONTROLLERS.contains(&name) {
                    let control = above.join("cgroup.subtree_control");
                    if let Err(error) = std::fs::write(&control, format!("+{name}")) {
                        log::debug!(path:% = control.display(), controller = name, error:%; "not passed on");
                    }
                }
            }
        }
        Ok(())
    }

    /// A new group of the cpuset controller of version 1 has no processors and
    /// takes no process, until it has those of the one above.
    fn inherit_cpus(&self) -> Result<()> {
        let mut groups: Vec<_> = self.above().map(Path::to_owned).collect();
        groups.push(self.directory.clone());
        for pair in groups.windows(2) {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let (from, to) = (pair[0].join(file), pair[1].join(file));
                let own = std::fs::read_to_string(&to).map_err(CgroupError::io("read", &to))?;
                if own.trim().is_empty() {
                    let above =
                        std::fs::read_to_string(&from).map_err(CgroupError::io("read", &from))?;
                    std::fs::write(&to, above).map_err(CgroupError::io("write", &to))?;
                }
            }
        }
        Ok(())
    }

    /// The groups that it is in, the outermost first.
    fn above(&self) -> impl Iterator<Item = &Path> {
        let mount = &self.hierarchy.mount;
        let above = self.directory.ancestors().skip(1);
        let mut above: Vec<_> = above.take_while(|it| it.starts_with(mount)).collect();
        above.reverse();
        above.into_iter()
    }

    fn procs(&self) -> PathBuf {
        self.directory.join("cgroup.procs")
    }
}

impl Cgroup {
    /// The files by which a process gets into it.
    pub(crate) fn procs(&self) -> Vec<PathBuf> {
        self.groups.iter().map(Group::procs).collect()
    }

    /// Puts this process into it, until it is removed.
    pub(crate) fn enter(&mut self) -> Result<()> {
        let path = Path::new("/proc/self/cgroup");
        let now = std::fs::read_to_string(path).map_err(CgroupError::io("read", path))?;
        for group in &self.groups {
            let before = group.hierarchy.group_of(&now);
            let procs = group.procs();
            std::fs::write(&procs, "0").map_err(CgroupError::io("enter", &procs))?;
            self.before
                .extend(before.map(|path| path.join("cgroup.procs")));
        }
        Ok(())
    }

    /// Removes what was made of it.
    pub(crate) fn remove(mut self) -> Result<()> {
        self.clear()
    }

    fn clear(&mut self) -> Result<()> {
        for procs in std::mem::take(&mut self.before) {
            std::fs::write(&procs, "0").map_err(CgroupError::io("go back to", &procs))?;
        }
        remove(&std::mem::take(&mut self.made))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            log::warn!(error:%; "a control group is left behind");
        }
    }
}

/// The processes in these directories of control groups.
pub(crate) fn processes(groups: &[PathBuf]) -> BTreeSet<u32> {
    let listed = groups
        .iter()
        // One that is gone has none.
        .filter_map(|group| std::fs::read_to_string(group.join("cgroup.procs")).ok());
    let ids = listed.flat_map(|list| {
        let ids = list.lines().filter_map(|id| id.parse().ok());
        ids.collect::<Vec<u32>>()
    });
    ids.collect()
}

/// Removes directories of control groups, the last first. Those that others are
/// in by now are theirs.
pub(crate) fn remove(made: &[PathBuf]) -> Result<()> {
    let mut outcome = Ok(());
    for directory in made.iter().rev() {
        let has_children = || {
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).any(|path| path.is_dir())
        };
        match std::fs::remove_dir(directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) if has_children() => {}
            Err(error) => outcome = outcome.and(Err(CgroupError::io("remove", directory)(error))),
        }
    }
    outcome
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
