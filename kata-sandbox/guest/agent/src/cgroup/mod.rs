//! The control group of a container (cgroup v2).
//!
//! The agent lives in the root of the hierarchy, containers in leaves of their
//! own, so controllers can be enabled all the way down to them.

mod bpf;
mod devices;
mod limits;
mod oom;
mod stats;

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use kata_protocol::agent::{CgroupStats, LinuxDeviceCgroup, LinuxResources};
use kata_protocol::ttrpc::{Code, Status};
use log::warn;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::Interest;

use crate::process::{Context as _, awaitable, refuse};
pub(crate) use oom::OomWatch;

/// Processes that are signalled together: a descriptor each.
const SIGNALLED: usize = 512;

/// A container's control group. Not removed on drop: see [`Cgroup::remove`].
#[derive(Debug)]
pub(crate) struct Cgroup {
    root: PathBuf,
    path: PathBuf,
    directory: OwnedFd,
    /// Its `memory.events`, if there is a memory controller.
    memory_events: Option<OwnedFd>,
    /// The program in force that decides about devices.
    device_program: std::cell::RefCell<Option<OwnedFd>>,
}

impl Cgroup {
    /// Makes the control group that a specification names, or one named after
    /// the container, below `root`.
    ///
    /// # Errors
    /// When the name leaves the hierarchy, there is such a group in use, or no
    /// cgroup v2 at `root`.
    pub(crate) fn create(root: &Path, wanted: &str, id: &str) -> Result<Self, Status> {
        let relative = relative_path(wanted, id)?;
        let mut path = root.to_owned();
        enable_controllers(&path)?;
        let mut names = relative.components().peekable();
        while let Some(name) = names.next() {
            path.push(name);
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error).context(|| format!("make the cgroup {}", path.display()));
                }
                _ => {}
            }
            if names.peek().is_some() {
                enable_controllers(&path)?;
            }
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags, Mode::empty())
            .context(|| format!("open the cgroup {}", path.display()))?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let memory_events =
            rustix::fs::openat(&directory, "memory.events", flags, Mode::empty()).ok();
        let cgroup = Self {
            root: root.to_owned(),
            path,
            directory,
            memory_events,
            device_program: None.into(),
        };
        if !cgroup.processes()?.is_empty() {
            let message = format!("the cgroup {} is in use", cgroup.path.display());
            return Err(Status::new(Code::AlreadyExists, message));
        }
        Ok(cgroup)
    }

    /// Its directory, in the form clone3 takes.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Its directory's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Sets the limits that are given; what is not stays as it is.
    ///
    /// # Errors
    /// When a value makes no sense, or the kernel lacks what a limit needs.
    pub(crate) fn limit(&self, resources: &LinuxResources) -> Result<(), Status> {
        let memory = resources.memory.as_ref();
        if let Some(memory) = memory.filter(|memory| memory.check_before_update) {
            self.check_usage(memory.limit)?;
        }
        for setting in limits::settings(resources)? {
            let written = match write(&self.path.join(&setting.file), &setting.value) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => match &setting.instead {
                    Some((file, value)) => write(&self.path.join(file), value),
                    None => Err(error),
                },
                written => written,
            };
            match written {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if !setting.optional {
                        return Err(missing(&setting.file));
                    }
                }
                Err(error) => {
                    let what = || format!("set {} to {:?}", setting.file, setting.value.trim_end());
                    return Err(error).context(what);
                }
            }
        }
        Ok(())
    }

    /// That no more is in use than will be allowed: the kernel would kill for it.
    fn check_usage(&self, limit: i64) -> Result<(), Status> {
        let usage = fs::read_to_string(self.path.join("memory.current")).unwrap_or_default();
        match usage.trim().parse::<i64>() {
            Ok(usage) if limit > 0 && usage > limit => {
                let message = format!("memory.limit: {usage} bytes are in use, more than {limit}");
                Err(Status::new(Code::FailedPrecondition, message))
            }
            _ => Ok(()),
        }
    }

    /// Decides which devices its processes may use: `rules`, of which the last
    /// that matches counts, and always those every container has.
    ///
    /// # Errors
    /// When a rule makes no sense, or the kernel has no device programs.
    pub(crate) fn allow_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<(), Status> {
        let program = bpf::load(&devices::program(rules)?)?;
        bpf::attach(self.fd(), program.as_fd())?;
        // Every attached program must allow; so the old one goes after the new
        // one came, and no moment is without.
        if let Some(old) = self.device_program.replace(Some(program)) {
            bpf::detach(self.fd(), old.as_fd())?;
        }
        Ok(())
    }

    /// Ids of the processes in it and in the groups below it.
    ///
    /// # Errors
    /// When the group is gone.
    pub(crate) fn processes(&self) -> Result<Vec<Pid>, Status> {
        let mut all = Vec::new();
        for directory in self.tree() {
            match fs::read_to_string(directory.join("cgroup.procs")) {
                Ok(text) => all.extend(
                    text.lines()
                        .filter_map(|l| l.parse().ok())
                        .filter_map(Pid::from_raw),
                ),
                // A container may remove the groups it made; threaded groups
                // list their processes in the group above.
                Err(_) if directory != self.path => {}
                Err(error) => return Err(error).context(|| "list the container's processes"),
            }
        }
        Ok(all)
    }

    /// Kills every process in it, also those being forked.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn kill(&self) -> Result<(), Status> {
        match write(&self.path.join("cgroup.kill"), "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.signal(Signal::KILL),
            result => result.context(|| "kill the container's processes"),
        }
    }

    /// Sends a signal to every process in it.
    ///
    /// # Errors
    /// When the group is gone or the kernel refuses.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Status> {
        for pids in self.processes()?.chunks(SIGNALLED) {
            self.signal_some(pids, signal)?;
        }
        Ok(())
    }

    fn signal_some(&self, pids: &[Pid], signal: Signal) -> Result<(), Status> {
        // Those that ended cannot be opened.
        let open = |pid: &Pid| {
            let pidfd = rustix::process::pidfd_open(*pid, PidfdFlags::empty()).ok()?;
            Some((*pid, pidfd))
        };
        let opened: Vec<_> = pids.iter().filter_map(open).collect();
        // An id may have passed to another process before it was opened. If it
        // is here now, either it is the one that was opened, or that is gone.
        let here: HashSet<Pid> = self.processes()?.into_iter().collect();
        for (pid, pidfd) in opened.iter().filter(|(pid, _)| here.contains(pid)) {
            match rustix::process::pidfd_send_signal(pidfd, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error).context(|| format!("signal process {pid}")),
            }
        }
        Ok(())
    }

    /// Stops its processes, or lets them go on, and waits until they do.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) async fn freeze(&self, freeze: bool) -> Result<(), Status> {
        let value = if freeze { "1" } else { "0" };
        write(&self.path.join("cgroup.freeze"), value)
            .context(|| "change whether the container is paused")?;
        self.event("frozen", value).await
    }

    /// Waits until no process is left in it.
    ///
    /// # Errors
    /// When its events cannot be read.
    pub(crate) async fn emptied(&self) -> Result<(), Status> {
        self.event("populated", "0").await
    }

    /// Waits until `key` of `cgroup.events` is `value`.
    async fn event(&self, key: &str, value: &str) -> Result<(), Status> {
        let what = || format!("watch {}/cgroup.events", self.path.display());
        let file = fs::File::open(self.path.join("cgroup.events")).context(what)?;
        let events = awaitable(file.into(), Interest::PRIORITY).context(what)?;
        loop {
            let mut buffer = [0; 256];
            let length = rustix::io::pread(events.get_ref(), &mut buffer, 0).context(what)?;
            let text = String::from_utf8_lossy(&buffer[..length]);
            if text
                .lines()
                .any(|line| line.split_once(' ') == Some((key, value)))
            {
                return Ok(());
            }
            events
                .ready(Interest::PRIORITY)
                .await
                .context(what)?
                .clear_ready();
        }
    }

    /// What its processes have used.
    pub(crate) fn stats(&self) -> CgroupStats {
        stats::read(&self.path)
    }

    /// How many of its processes the kernel has killed for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        // Six counts with their names.
        let mut text = [0; 512];
        let read = self
            .memory_events
            .as_ref()
            .and_then(|events| rustix::io::pread(events, &mut text, 0).ok());
        stats::value(&text[..read.unwrap_or(0)], "oom_kill").unwrap_or(0)
    }

    /// Removes it, the groups its processes made below it, and those above that
    /// were made for it alone. Its processes must be gone.
    ///
    /// # Errors
    /// When a process is left in it.
    pub(crate) fn remove(&self) -> Result<(), Status> {
        for directory in self.tree().into_iter().rev() {
            match fs::remove_dir(&directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error)
                        .context(|| format!("remove the cgroup {}", directory.display()));
                }
                _ => {}
            }
        }
        let above = self.path.ancestors().skip(1);
        for directory in above.take_while(|directory| *directory != self.root) {
            if fs::remove_dir(directory).is_err() {
                break; // others are in it
            }
        }
        Ok(())
    }

    /// Itself and the groups below, parents first.
    fn tree(&self) -> Vec<PathBuf> {
        let mut all = vec![self.path.clone()];
        let mut next = 0;
        while let Some(directory) = all.get(next) {
            next += 1;
            let Ok(entries) = fs::read_dir(directory) else {
                continue;
            };
            let below: Vec<_> = entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path())
                .collect();
            all.extend(below);
        }
        all
    }
}

/// Writes a file of the kernel's. Were it to be made if it is missing, the
/// kernel would call that forbidden.
fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::File::options()
        .write(true)
        .open(path)?
        .write_all(value.as_bytes())
}

fn missing(file: &str) -> Status {
    let controller = file.split('.').next().unwrap_or(file);
    Status::new(
        Code::FailedPrecondition,
        format!(
            "the guest's kernel has no {file}: a limit needs the cgroup controller {controller:?}"
        ),
    )
}

/// Lets the groups below `path` use every controller there is.
fn enable_controllers(path: &Path) -> Result<(), Status> {
    let controllers = fs::read_to_string(path.join("cgroup.controllers"))
        .context(|| format!("find cgroup v2 at {}", path.display()))?;
    for controller in controllers.split_whitespace() {
        // One at a time: one that cannot be had must not cost the others. What
        // is missing is reported when a limit needs it.
        let enable = fs::write(
            path.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
        if let Err(error) = enable {
            warn!(controller, path:? = path, error:%; "cannot enable a cgroup controller");
        }
    }
    Ok(())
}

/// The path below the root: as given, or of systemd's form
/// `slice:prefix:name`, or `kata/<id>`.
fn relative_path(wanted: &str, id: &str) -> Result<PathBuf, Status> {
    let path = match wanted.split(':').collect::<Vec<_>>()[..] {
        [""] | ["/"] => PathBuf::from("kata").join(id),
        [slice, prefix, name] => {
            let slice = if slice.is_empty() {
                "system.slice"
            } else {
                slice
            };
            let name = if prefix.is_empty() {
                name.into()
            } else {
                format!("{prefix}-{name}")
            };
            PathBuf::from(slice).join(format!("{name}.scope"))
        }
        _ => PathBuf::from(wanted.trim_start_matches('/')),
    };
    let plain = |c: std::path::Component<'_>| matches!(c, std::path::Component::Normal(_));
    if path.components().next().is_none() || !path.components().all(plain) {
        return Err(refuse(format!(
            "the cgroup path {wanted:?} leaves the hierarchy"
        )));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_all_forms_stay_below_the_root() {
        let path = |wanted| relative_path(wanted, "id").unwrap();
        assert_eq!(path(""), Path::new("kata/id"));
        assert_eq!(path("/kubepods/pod1/c"), Path::new("kubepods/pod1/c"));
        assert_eq!(
            path("machine.slice:cri:abc"),
            Path::new("machine.slice/cri-abc.scope")
        );
        assert!(relative_path("/../..", "id").is_err());
        assert!(relative_path("a/../b", "id").is_err());
    }

    #[test]
    fn a_missing_controller_is_named() {
        let status = missing("hugetlb.2MB.max");
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message.contains("\"hugetlb\""), "{status}");
    }
}
