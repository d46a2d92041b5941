//! What a container's first process does before it is the container's program.
//!
//! It runs in a copy of the agent, so it may block. Its steps and what it says:
//!
//! ```text
//!  (user namespace: waits until its ids are mapped)
//!  namespaces, sysctls, mounts, devices, protected paths
//!  READY, waits                    only when the agent has hooks to run here
//!  createContainer hooks, new root, host name, working directory, user, terminal
//!  READY, waits for start
//!  startContainer hooks, limits, user, capabilities, filter
//!  execve: the socket closes
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kata_protocol::ttrpc::Status;
use rustix::process::{Gid, Uid};

use super::blueprint::{Blueprint, Task};
use super::state;
use super::{devices, hooks, mounts, protect, rootfs, sysctl};
use crate::files::{Kind, Root, Volumes};
use crate::process::{Account, Context as _, CopyControl, Field as _, detach_from_agent};
use crate::seccomp::Filter;
use crate::stdio::{ChildEnd, ChildEnds, Terminal};

/// Makes the container and becomes its program; returns only if it cannot.
pub(super) fn run(blueprint: &Blueprint, ends: &ChildEnds, control: &CopyControl) -> Status {
    match make_container(blueprint, ends, control) {
        Ok((mut task, account)) => start(blueprint, &mut task, &account),
        Err(status) => status,
    }
}

fn make_container(
    blueprint: &Blueprint,
    ends: &ChildEnds,
    control: &CopyControl,
) -> Result<(Task, Account), Status> {
    detach_from_agent().context(|| "leave the agent's session")?;
    if blueprint.namespaces.ids.is_some() {
        control.wait_for_go()?;
    }
    blueprint.namespaces.complete()?;
    rustix::process::umask(rustix::fs::Mode::empty());
    let volumes = Volumes::now()?;
    let root = rootfs::prepare(
        &volumes,
        &blueprint.root,
        &blueprint.linux.rootfs_propagation,
    )?;
    name_host(blueprint)?;
    sysctl::apply(&blueprint.linux.sysctl)?;
    mounts::mount_all(&volumes, &root, &blueprint.mounts)?;
    populate(&root, blueprint)?;
    if blueprint.has_early_hooks() {
        control.ready()?;
        control.wait_for_go()?;
    }
    let creating = blueprint.state(state::Status::Creating, own_pid());
    hooks::run_all(&blueprint.hooks.create_container, &creating)
        .field(|| "hooks.createContainer")?;
    rootfs::pivot(&root)?;
    drop(root);
    let task = blueprint.task.clone();
    let account = task.user.resolve().field(|| "process.user")?;
    let directory =
        current_root()?.open_or_make(Path::new(task.program.directory()), Kind::Directory);
    // A file there is reported when it is entered, as the user it will be.
    drop(directory);
    join_stdio(ends, &account, control, true)?;
    control_terminal(ends)?;
    let read_only = blueprint.read_only;
    rootfs::finish(&blueprint.linux.rootfs_propagation, read_only)?;
    rustix::process::umask(rustix::fs::Mode::from(0o022));
    control.ready()?;
    control.wait_for_go()?;
    Ok((task, account))
}

fn start(blueprint: &Blueprint, task: &mut Task, account: &Account) -> Status {
    let created = blueprint.state(state::Status::Created, own_pid());
    let hooks = hooks::run_all(&blueprint.hooks.start_container, &created);
    if let Err(status) = hooks.field(|| "hooks.startContainer") {
        return status;
    }
    task.program.complete_environment(account.uid, None);
    become_program(task, account, blueprint.filter.as_ref())
}

/// The last steps, which exec'd processes take, too.
pub(super) fn become_program(task: &Task, account: &Account, filter: Option<&Filter>) -> Status {
    let program = &task.program;
    match task
        .privileges
        .assume(account, filter, || program.enter_directory())
        .and_then(|()| task.privileges.seal(filter))
    {
        Ok(()) => program.execute(),
        Err(status) => status,
    }
}

/// Joins the standard streams, or makes the terminal that is all three; it is
/// not the controlling one yet ([`control_terminal`]).
pub(super) fn join_stdio(
    ends: &ChildEnds,
    account: &Account,
    control: &CopyControl,
    console: bool,
) -> Result<(), Status> {
    match ends {
        ChildEnds::Streams(streams) => {
            own(account, streams.iter().filter_map(ChildEnd::pipe));
            let [stdin, stdout, stderr] = streams;
            standard(stdin, stdout, stderr)
        }
        ChildEnds::Terminal(size) => {
            let Terminal { master, slave } = Terminal::open(*size)?;
            own(account, [&slave].into_iter());
            control.terminal(&master)?;
            if console {
                devices::console(&slave)?;
            }
            standard(&slave, &slave, &slave)
        }
    }
}

/// Makes the terminal, if there is one, that of the calling process's session.
pub(super) fn control_terminal(ends: &ChildEnds) -> Result<(), Status> {
    if let ChildEnds::Terminal(_) = ends {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
            .context(|| "make the terminal the controlling one")?;
    }
    Ok(())
}

fn standard(stdin: impl AsFd, stdout: impl AsFd, stderr: impl AsFd) -> Result<(), Status> {
    use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
    let join = || {
        dup2_stdin(stdin)?;
        dup2_stdout(stdout)?;
        dup2_stderr(stderr)
    };
    join().context(|| "join the standard streams")
}

/// Gives the streams to the user, who may want to open `/dev/stdout`.
fn own<'a>(account: &Account, streams: impl Iterator<Item = &'a OwnedFd>) {
    if account.uid != 0 {
        for stream in streams {
            // It can be used all the same.
            let _ = rustix::fs::fchown(stream, Some(Uid::from_raw(account.uid)), None::<Gid>);
        }
    }
}

fn name_host(blueprint: &Blueprint) -> Result<(), Status> {
    if !blueprint.namespaces.own_uts {
        return Ok(());
    }
    if !blueprint.hostname.is_empty() {
        rustix::system::sethostname(blueprint.hostname.as_bytes())
            .context(|| "hostname: set it")?;
    }
    if !blueprint.domainname.is_empty() {
        rustix::system::setdomainname(blueprint.domainname.as_bytes())
            .context(|| "domainname: set it")?;
    }
    Ok(())
}

/// Devices and protected paths, on what has been mounted.
fn populate(root: &Root, blueprint: &Blueprint) -> Result<(), Status> {
    let dev = blueprint
        .mounts
        .iter()
        .rfind(|mount| Path::new(mount.destination()) == Path::new("/dev"));
    // The guest's own /dev has what the guest has.
    if dev.is_none_or(|mount| mount.bind_source().is_none()) {
        let in_user_namespace = blueprint.namespaces.ids.is_some();
        devices::make_all(root, &blueprint.linux.devices, in_user_namespace)
            .field(|| "linux.devices")?;
    }
    if dev.is_some_and(mounts::Mapped::is_read_only) {
        let dev = root
            .open("/dev", rustix::fs::OFlags::PATH)
            .context(|| "find /dev")?;
        mounts::make_read_only(&dev)?;
    }
    protect::make_read_only(root, &blueprint.linux.readonly_paths)
        .field(|| "linux.readonlyPaths")?;
    protect::mask(root, &blueprint.linux.masked_paths).field(|| "linux.maskedPaths")
}

fn current_root() -> Result<Root, Status> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/", flags, Mode::empty())
        .map(Root)
        .context(|| "open the root")
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}
