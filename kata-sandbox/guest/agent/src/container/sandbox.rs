//! What the containers of a sandbox share.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use kata_protocol::ttrpc::Status;
use rustix::process::Signal;

use crate::process::{Child, Context as _, Copy, clone_self, detach_from_agent};

/// What CreateSandbox says of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct SandboxSetup {
    /// The host name of containers that have none of their own.
    pub(crate) hostname: String,
    /// Containers see each other's processes.
    pub(crate) shared_pid: bool,
    /// A directory in the guest with hooks for every container.
    pub(crate) guest_hooks: Option<PathBuf>,
}

/// Namespaces and settings of the sandbox; empty before CreateSandbox.
#[derive(Debug, Default)]
pub(super) struct Sandbox {
    pub(super) hostname: String,
    pub(super) guest_hooks: Option<PathBuf>,
    pub(super) ipc: Option<OwnedFd>,
    pub(super) uts: Option<OwnedFd>,
    pub(super) pid: Option<OwnedFd>,
    holder: Option<Child>,
}

impl Sandbox {
    /// Makes the namespaces. A shared pid namespace needs a first process: a
    /// copy of the agent, which collects the namespace's orphans.
    pub(super) fn open(setup: &SandboxSetup) -> Result<Self, Status> {
        let (wait, hold) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context(|| "make a pipe")?;
        let mut copy = Copy {
            namespaces: libc::CLONE_NEWIPC | libc::CLONE_NEWUTS,
            keep: vec![std::os::fd::AsRawFd::as_raw_fd(&wait)],
            ..Copy::default()
        };
        if setup.shared_pid {
            copy.namespaces |= libc::CLONE_NEWPID;
        }
        let SandboxSetup {
            hostname,
            shared_pid,
            guest_hooks,
        } = setup.clone();
        let first = clone_self(&copy, || {
            let named =
                hostname.is_empty() || rustix::system::sethostname(hostname.as_bytes()).is_ok();
            // Until the namespaces are open elsewhere.
            if !named || rustix::io::read(&wait, &mut [0]).is_err() {
                return 1;
            }
            if shared_pid { collect_orphans() } else { 0 }
        })
        .context(|| "make the sandbox's namespaces")?;
        let open = |kind: &str| {
            let path = format!("/proc/{}/ns/{kind}", first.pid().as_raw_nonzero());
            File::open(&path)
                .map(OwnedFd::from)
                .context(|| format!("open {path}"))
        };
        let sandbox = Self {
            ipc: Some(open("ipc")?),
            uts: Some(open("uts")?),
            pid: shared_pid.then(|| open("pid")).transpose()?,
            holder: shared_pid.then(|| first.clone()),
            hostname,
            guest_hooks,
        };
        drop(hold);
        Ok(sandbox)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(holder) = &self.holder {
            // It cannot fail for a child of ours.
            drop(holder.signal(Signal::KILL));
        }
    }
}

/// The life of a pid namespace's first process.
fn collect_orphans() -> i32 {
    if detach_from_agent().is_err() {
        return 1;
    }
    crate::process::wait_for_orphans()
}
