//! What the containers of a sandbox share.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;

use kata_protocol::agent::Process;
use kata_protocol::ttrpc::Status;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, mount_change};
use rustix::process::Signal;
use rustix::thread::UnshareFlags;

use super::rootfs;
use crate::files::Root;
use crate::process::{
    Account, Child, Context as _, Copy, CopyControl, Privileges, Scheduling, clone_self,
    control_pair, detach_from_agent, unshare,
};

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
    pub(super) async fn open(setup: &SandboxSetup) -> Result<Self, Status> {
        let (wait, hold) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context(|| "make a pipe")?;
        let (control, copy_control) = control_pair()?;
        let mut copy = Copy {
            namespaces: libc::CLONE_NEWIPC | libc::CLONE_NEWUTS,
            keep: vec![wait.as_raw_fd(), copy_control.as_raw_fd()],
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
            if shared_pid {
                collect_orphans(copy_control)
            } else {
                0
            }
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
        if shared_pid {
            // No container sees it before it has given everything up.
            control.ready().await?;
        }
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
fn collect_orphans(control: CopyControl) -> i32 {
    if let Err(status) = give_everything_up() {
        control.failed(&status);
        return 1;
    }
    if control.ready().is_err() {
        return 1; // the agent is gone
    }
    drop(control);
    crate::process::wait_for_orphans()
}

/// Containers see this process, and one that may trace others can be it: so it
/// has neither the guest's files nor any privilege.
fn give_everything_up() -> Result<(), Status> {
    detach_from_agent().context(|| "leave the agent's session")?;
    unshare(UnshareFlags::NEWNS).context(|| "make a mount namespace")?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .context(|| "cut off the mount namespace")?;
    rustix::mount::mount("tmpfs", EMPTY, "tmpfs", MountFlags::RDONLY, c"size=0k")
        .context(|| "make an empty root")?;
    let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(EMPTY, open, Mode::empty()).context(|| "open an empty root")?;
    rootfs::pivot(&Root(root))?;
    let nothing = Process {
        no_new_privileges: true,
        ..Process::default()
    };
    Privileges::new(&nothing, Scheduling::default())?.assume(&Account::default(), None, || Ok(()))
}

/// Where the empty root is mounted: a directory that is always there.
const EMPTY: &str = "/proc";
