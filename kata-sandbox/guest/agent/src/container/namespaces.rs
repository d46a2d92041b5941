//! Namespaces of containers.
//!
//! | namespace | a container has |
//! |---|---|
//! | mount, cgroup | its own, always |
//! | pid | the one a path names; else the sandbox's if that is shared; else its own |
//! | network | the one a path names; else the virtual machine's |
//! | ipc | the one a path names; else the sandbox's |
//! | uts | the one a path names; its own if its host name differs from the sandbox's; else the sandbox's |
//! | user | its own if there are mappings; then ipc and uts are its own, too |
//! | time | its own if there are offsets |
//!
//! A path leads to a file of the guest's, or is `container:<id>` for that of
//! another container of the sandbox.
//!
//! Before there is a sandbox, what would be the sandbox's is the container's.
//!
//! The agent itself enters the namespaces to be joined, clones the container's
//! process, which is born in them, and goes back. Nothing can come between: the
//! agent has one thread.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use kata_protocol::agent::{Linux, LinuxIdMapping, LinuxTimeOffset};
use kata_protocol::ttrpc::{Code, Status};
use rustix::process::Pid;
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags, move_into_link_name_space,
    move_into_thread_name_spaces,
};

use super::sandbox::Sandbox;
use crate::process::{Context as _, refuse, unshare};

/// What a container's first process is born into.
#[derive(Debug)]
pub(super) struct Namespaces {
    /// New ones, for clone3.
    pub(super) new: i32,
    /// Those to be joined.
    join: Vec<(OwnedFd, LinkNameSpaceType)>,
    /// Offsets of its own time namespace.
    time: Option<BTreeMap<String, LinuxTimeOffset>>,
    /// Mappings of its own user namespace: users, groups.
    pub(super) ids: Option<(Vec<LinuxIdMapping>, Vec<LinuxIdMapping>)>,
    /// The cgroup namespace to be joined.
    cgroup: Option<OwnedFd>,
    /// Its host name is its own to set.
    pub(super) own_uts: bool,
    /// It is the first process of its pid namespace.
    pub(super) own_pid: bool,
}

/// What a path begins with that means a namespace of another container of the
/// sandbox, by its id.
const OF_CONTAINER: &str = "container:";

/// What `/proc/<pid>/ns` calls a kind of namespace.
fn file_name(kind: &str) -> &str {
    match kind {
        "network" => "net",
        "mount" => "mnt",
        kind => kind,
    }
}

impl Namespaces {
    /// Decides by the table above.
    ///
    /// # Errors
    /// When a path leads to no namespace, or what is asked for cannot be had.
    pub(super) fn plan(
        linux: &Linux,
        hostnames: (&str, &str),
        shared_pid: bool,
        sandbox: &Sandbox,
        of_container: impl Fn(&str) -> Result<Pid, Status>,
    ) -> Result<Self, Status> {
        let by_path = |kind: &str| -> Result<Option<OwnedFd>, Status> {
            let found = linux
                .namespaces
                .iter()
                .find(|n| n.r#type == kind && !n.path.is_empty());
            let open = |path: &str| {
                let path = match path.strip_prefix(OF_CONTAINER) {
                    Some(id) => &format!("/proc/{}/ns/{}", of_container(id)?, file_name(kind)),
                    None => path,
                };
                let file = File::open(path).map(OwnedFd::from);
                file.context(|| format!("open the {kind} namespace {path}"))
            };
            found.map(|namespace| open(&namespace.path)).transpose()
        };
        let listed = |kind: &str| linux.namespaces.iter().any(|n| n.r#type == kind);
        if by_path("user")?.is_some() || by_path("time")?.is_some() || by_path("mount")?.is_some() {
            let message = "user, time and mount namespaces cannot be joined by a path";
            return Err(Status::new(Code::Unimplemented, message));
        }
        let own_user = listed("user") && !linux.uid_mappings.is_empty();
        let mut namespaces = Self {
            new: libc::CLONE_NEWNS,
            join: Vec::new(),
            time: None,
            ids: own_user.then(|| (linux.uid_mappings.clone(), linux.gid_mappings.clone())),
            cgroup: by_path("cgroup")?,
            own_uts: false,
            own_pid: false,
        };
        if own_user {
            namespaces.new |= libc::CLONE_NEWUSER;
        }
        if listed("time") || !linux.time_offsets.is_empty() {
            namespaces.time = Some(linux.time_offsets.clone());
        }
        if let Some(network) = by_path("network")? {
            namespaces.join(network, LinkNameSpaceType::Network);
        }
        let shared = |fd: &Option<OwnedFd>| -> Result<Option<OwnedFd>, Status> {
            let fd = fd.as_ref().filter(|_| !own_user);
            fd.map(|fd| fd.try_clone().context(|| "use a namespace of the sandbox"))
                .transpose()
        };
        match by_path("ipc")?.map_or_else(|| shared(&sandbox.ipc), |fd| Ok(Some(fd)))? {
            Some(ipc) => namespaces.join(ipc, LinkNameSpaceType::InterProcessCommunication),
            None => namespaces.new |= libc::CLONE_NEWIPC,
        }
        let (hostname, domainname) = hostnames;
        let own_name =
            !hostname.is_empty() && hostname != sandbox.hostname || !domainname.is_empty();
        let uts = match by_path("uts")? {
            None if own_name && listed("uts") => None,
            None => shared(&sandbox.uts)?,
            named => named,
        };
        match uts {
            Some(uts) => namespaces.join(uts, LinkNameSpaceType::HostNameAndNISDomainName),
            None => {
                namespaces.new |= libc::CLONE_NEWUTS;
                namespaces.own_uts = true;
            }
        }
        let pid = match by_path("pid")? {
            None if shared_pid => shared(&sandbox.pid)?,
            named => named,
        };
        match pid {
            Some(pid) => namespaces.join(pid, LinkNameSpaceType::ProcessID),
            None => {
                namespaces.new |= libc::CLONE_NEWPID;
                namespaces.own_pid = true;
            }
        }
        Ok(namespaces)
    }

    fn join(&mut self, namespace: OwnedFd, kind: LinkNameSpaceType) {
        self.join.push((namespace, kind));
    }

    /// What exec'd processes join besides the mount namespace, pid apart.
    pub(super) fn to_enter(&self) -> ThreadNameSpaceType {
        let mut kinds = ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::CONTROL_GROUP
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::NETWORK;
        kinds.set(ThreadNameSpaceType::USER, self.ids.is_some());
        kinds.set(ThreadNameSpaceType::TIME, self.time.is_some());
        kinds
    }

    /// Runs `clone` with the agent in the namespaces to be joined.
    ///
    /// # Errors
    /// When one cannot be joined, or `clone` fails.
    pub(super) fn within<T>(
        &self,
        own: &OwnNamespaces,
        clone: impl FnOnce() -> Result<T, Status>,
    ) -> Result<T, Status> {
        let _back = GoBack {
            own,
            kinds: self.join.iter().map(|(_, kind)| *kind).collect(),
        };
        for (namespace, kind) in &self.join {
            move_into_link_name_space(namespace.as_fd(), Some(*kind))
                .context(|| format!("join a namespace ({kind:?})"))?;
        }
        clone()
    }

    /// In the new process: what cannot be had at birth.
    pub(super) fn complete(&self) -> Result<(), Status> {
        if self.ids.is_some() {
            let (root, group) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
            rustix::thread::set_thread_groups(&[]).context(|| "leave the agent's groups")?;
            rustix::thread::set_thread_res_gid(group, group, group)
                .context(|| "become the user namespace's root group")?;
            rustix::thread::set_thread_res_uid(root, root, root)
                .context(|| "become the user namespace's root")?;
        }
        if let Some(offsets) = &self.time {
            enter_time(offsets)?;
        }
        match &self.cgroup {
            Some(cgroup) => {
                move_into_link_name_space(cgroup.as_fd(), Some(LinkNameSpaceType::ControlGroup))
                    .context(|| "join the cgroup namespace")
            }
            // At birth it would be rooted in the agent's cgroup.
            None => unshare(UnshareFlags::NEWCGROUP).context(|| "make a cgroup namespace"),
        }
    }

    /// Descriptors that the new process needs.
    pub(super) fn keep(&self) -> Option<BorrowedFd<'_>> {
        self.cgroup.as_ref().map(|fd| fd.as_fd())
    }
}

fn enter_time(offsets: &BTreeMap<String, LinuxTimeOffset>) -> Result<(), Status> {
    unshare(UnshareFlags::NEWTIME).context(|| "make a time namespace")?;
    let mut text = String::new();
    for (clock, offset) in offsets {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(refuse(format!(
                "linux.timeOffsets: the clock {clock:?} has no offset"
            )));
        }
        text.push_str(&format!("{clock} {} {}\n", offset.secs, offset.nanosecs));
    }
    if !text.is_empty() {
        std::fs::write("/proc/self/timens_offsets", text)
            .context(|| "linux.timeOffsets: set the clocks' offsets")?;
    }
    let path = "/proc/self/ns/time_for_children";
    let namespace = File::open(path).context(|| "open the time namespace")?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Time))
        .context(|| "join the time namespace")
}

/// The agent's own namespaces, to go back to.
#[derive(Debug)]
pub(super) struct OwnNamespaces {
    ipc: OwnedFd,
    uts: OwnedFd,
    network: OwnedFd,
    pid: OwnedFd,
}

impl OwnNamespaces {
    /// # Errors
    /// When `/proc` is not mounted.
    pub(super) fn open() -> std::io::Result<Self> {
        let open =
            |kind: &str| File::open(Path::new("/proc/self/ns").join(kind)).map(OwnedFd::from);
        Ok(Self {
            ipc: open("ipc")?,
            uts: open("uts")?,
            network: open("net")?,
            pid: open("pid")?,
        })
    }

    /// Runs `clone` so that the child is born in the pid namespace of the
    /// process that `pidfd` stands for.
    ///
    /// # Errors
    /// When that process is gone, or `clone` fails.
    pub(super) fn within_pid_of<T>(
        &self,
        pidfd: BorrowedFd<'_>,
        clone: impl FnOnce() -> Result<T, Status>,
    ) -> Result<T, Status> {
        let _back = GoBack {
            own: self,
            kinds: vec![LinkNameSpaceType::ProcessID],
        };
        move_into_thread_name_spaces(pidfd, ThreadNameSpaceType::PROCESS_ID)
            .context(|| "join the container's pid namespace")?;
        clone()
    }
}

struct GoBack<'a> {
    own: &'a OwnNamespaces,
    kinds: Vec<LinkNameSpaceType>,
}

impl Drop for GoBack<'_> {
    fn drop(&mut self) {
        for kind in &self.kinds {
            let namespace = match kind {
                LinkNameSpaceType::InterProcessCommunication => &self.own.ipc,
                LinkNameSpaceType::HostNameAndNISDomainName => &self.own.uts,
                LinkNameSpaceType::Network => &self.own.network,
                _ => &self.own.pid,
            };
            // An agent that cannot go home would do all its work in a container.
            move_into_link_name_space(namespace.as_fd(), Some(*kind))
                .expect("the agent may return to the namespace it came from");
        }
    }
}
