//! Making a container, up to the point where its program could start.

use std::collections::BTreeMap;

use kata_sandbox::{Sandbox, oci};

use super::delete;
use super::pid_file;
use super::terminal::Console;
use crate::bundle::{Bundle, console_size};
use crate::cgroup;
use crate::cli::{Arguments, Globals, NAME};
use crate::client;
use crate::failure::{Failure, Result};
use crate::hooks::{self, Later};
use crate::mount_points;
use crate::network::{self, Prepared, SandboxNetwork};
use crate::pod::{self, Membership, membership};
use crate::processors;
use crate::program;
use crate::proxy::{Netns, Order, Proxy, Task};
use crate::root::{ContainerDir, Root};
use crate::state::{Record, Status};

/// The command.
pub(crate) fn create(globals: &Globals, arguments: &Arguments) -> Result<u8> {
    client::block_on(make_and_settle(globals, arguments))?
        .map(|_| 0)
        .map_err(|failure| failure.in_context(&format!("{NAME} create failed")))
}

/// Makes a container that is by itself from then on, or nothing.
pub(super) async fn make_and_settle(globals: &Globals, arguments: &Arguments) -> Result<Record> {
    let made = make(globals, arguments, true).await?;
    let id = made.record.id.clone();
    match made.settle() {
        Ok(record) => Ok(record),
        Err(failure) => {
            let locked = Root::open(&globals.root)?.lock(&id)?;
            if let Err(left) = delete::force(globals, locked).await {
                log::warn!("what was made is left behind: {left}");
            }
            Err(failure)
        }
    }
}

/// A container that was made, and that nobody knows of yet.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) record: Record,
    pub(super) proxy: Proxy,
    pub(super) console: Console,
}

/// Makes a container as `create` and `run` are asked to.
pub(super) async fn make(globals: &Globals, arguments: &Arguments, detach: bool) -> Result<Made> {
    refuse_descriptors(arguments)?;
    let bundle = Bundle::load(arguments.filled("bundle"))?;
    let root = Root::open(&globals.root)?;
    let (directory, _lock) = root.reserve(arguments.argument(0)?)?;
    let made = make_in(globals, arguments, detach, &root, &directory, bundle).await;
    if made.is_err() {
        directory.remove()?;
    }
    made
}

async fn make_in(
    globals: &Globals,
    arguments: &Arguments,
    detach: bool,
    root: &Root,
    directory: &ContainerDir,
    bundle: Bundle,
) -> Result<Made> {
    let socket = arguments.filled("console-socket");
    let size = console_size(bundle.spec.oci().process().as_ref());
    let console = Console::open(bundle.terminal(), detach, socket, size)?;
    program::check(&bundle.rootfs(), bundle.spec.oci())?;
    mount_points::make(&bundle.path, &bundle.rootfs(), bundle.spec.oci())?;
    let mut record = describe(globals, root, arguments.argument(0)?, &bundle)?;
    directory.save(&record)?;
    let mut proxy = Proxy::start(console.stdio()?, bundle.spec.oci().process().as_ref())?;
    let mut sandbox = None;
    let making = async {
        let spec = prepare(globals, &bundle, &mut record, &mut proxy, &mut sandbox).await?;
        let all = root.list()?;
        let shares_pid_with = pod::pid_namespace(&spec, &record.sandbox, &all);
        proxy.order(Order {
            globals: globals.clone(),
            sandbox: record.sandbox.clone(),
            container: record.guest_id.clone(),
            terminal: console.is_terminal(),
            task: Task::Create {
                bundle: bundle.path.clone(),
                rootfs: record.rootfs.clone(),
                spec: Box::new(spec),
                no_pivot: arguments.has("no-pivot"),
                shares_pid_with: shares_pid_with.map(|other| other.guest_id.clone()),
            },
        })?;
        let process = proxy.process()?;
        record.process = Some(process);
        record.status = Status::Created;
        pid_file::write(arguments.filled("pid-file"), process.pid)?;
        directory.save(&record)
    };
    match making.await {
        Ok(()) => Ok(Made {
            record,
            proxy,
            console,
        }),
        Err(failure) => {
            proxy.abandon();
            end(sandbox).await;
            cgroup::remove(&record);
            hooks::poststop(&record).await;
            Err(failure)
        }
    }
}

/// Brings the proxy into its network namespace, runs the hooks that fill it,
/// and boots the sandbox, if the container is to have its own. Answers what is
/// left for the library to do.
async fn prepare(
    globals: &Globals,
    bundle: &Bundle,
    record: &mut Record,
    proxy: &mut Proxy,
    sandbox: &mut Option<Sandbox>,
) -> Result<oci::Spec> {
    let mut spec = bundle.spec.oci().clone();
    if let Some(netns) = network::namespace(&spec) {
        enter(proxy, netns, &spec)?;
    }
    let pid = proxy.process()?.pid;
    let prepared = hooks::prepare(&mut spec, record, pid).await?;
    let processors = processors::take(&mut spec);
    if !record.owns_sandbox && processors.is_some() {
        log::warn!("linux.resources.cpu.cpus: the pod's machine has its processors already");
    }
    if record.owns_sandbox {
        let network = network::of(&spec, Prepared::of(pid, prepared))?;
        record.network_later = matches!(network, SandboxNetwork::Later(_));
        let booting = client::boot(globals, record, &spec, (network, processors));
        *sandbox = Some(booting.await?);
    }
    match &record.cgroup {
        Some(path) if record.owns_sandbox => cgroup::join(path, pid),
        Some(path) => cgroup::join_own(path, pid),
        None => {}
    }
    Ok(spec)
}

/// Brings the proxy into its network namespace. Without root there is no new one
/// to be had, and without hooks that fill it, no need of one.
fn enter(proxy: &mut Proxy, netns: Netns, spec: &oci::Spec) -> Result<()> {
    let needless = netns == Netns::Own && !hooks::prepare_anything(spec);
    if needless && !rustix::process::geteuid().is_root() {
        log::warn!("without root, the proxy stays in the caller's network namespace");
        return Ok(());
    }
    proxy.enter(netns)
}

/// Descriptors beyond the standard streams stay on this side.
pub(super) fn refuse_descriptors(arguments: &Arguments) -> Result<()> {
    if arguments.number("preserve-fds") > 0 {
        return Err(Failure::new(
            "--preserve-fds: descriptors of the host cannot be passed into a virtual machine",
        ));
    }
    if std::env::var_os("LISTEN_FDS").is_some() {
        log::warn!("LISTEN_FDS: descriptors of the host are not passed into a virtual machine");
    }
    Ok(())
}

fn describe(globals: &Globals, root: &Root, id: &str, bundle: &Bundle) -> Result<Record> {
    let spec = bundle.spec.oci();
    let annotations: BTreeMap<String, String> = spec
        .annotations()
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let own = client::library_id(id);
    let (sandbox, owns_sandbox) = match membership(id, &annotations)? {
        Membership::Own => (own.clone(), true),
        Membership::Joins(pod) => (sandbox_of(root, &pod)?, false),
    };
    Ok(Record {
        oci_version: spec.version().clone(),
        id: id.to_owned(),
        process: None,
        status: Status::Creating,
        bundle: bundle.path.clone(),
        rootfs: bundle.rootfs(),
        created: jiff::Timestamp::now(),
        annotations,
        sandbox,
        guest_id: own,
        owns_sandbox,
        cgroup: cgroup::of(spec, globals.systemd_cgroup)?,
        started: false,
        hooks: Later::of(spec),
        network_later: false,
        uid: rustix::process::geteuid().as_raw(),
    })
}

/// The sandbox of a pod's first container.
fn sandbox_of(root: &Root, pod: &str) -> Result<String> {
    let found = root
        .load(pod)
        .map_err(|failure| failure.in_context(&format!("the pod's sandbox container {pod}")))?;
    Ok(found.sandbox)
}

/// Ends a sandbox whose container could not be made.
async fn end(sandbox: Option<Sandbox>) {
    let Some(sandbox) = sandbox else { return };
    if let Err(error) = sandbox.delete().await {
        log::warn!(error:%; "a sandbox could not be ended");
    }
}

impl Made {
    /// Lets the container be by itself: its terminal goes to whoever wants it.
    pub(super) fn settle(self) -> Result<Record> {
        let Self {
            record,
            mut proxy,
            console,
            ..
        } = self;
        if let Console::Socket { pty, socket } = console {
            pty.send_master(&socket)?;
        }
        proxy.settle()?;
        Ok(record)
    }
}
