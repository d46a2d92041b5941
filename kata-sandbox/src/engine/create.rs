//! Making a container, up to the point where its program could start.

use std::sync::Arc;

use kata_protocol::agent::{CreateContainerRequest, RemoveContainerRequest};
use kata_protocol::oci as wire;
use oci_spec::runtime as oci;

use super::Engine;
use super::container::{ContainerRecord, Held};
use super::containers::Slot;
use super::disks::{self, Wanted};
use super::hooks::HostHooks;
use super::sharing;
use super::streams;
use super::tie::{self, Tie};
use super::translate::{Translated, translate};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sizing::Limits;
use crate::spec::{self, ContainerSpec, GuestUser};
use crate::state::ContainerStep;
use crate::stdio::StdioMode;

impl Engine {
    /// Makes a container, up to the point where its program could start.
    pub(crate) async fn create_container(
        self: &Arc<Self>,
        id: &str,
        spec: ContainerSpec,
    ) -> Result<Arc<ContainerRecord>> {
        let context = self.container_context("create container", id);
        crate::id::check(id, &context)?;
        self.require_running(&context)?;
        spec::check(&spec, &context)?;
        let slot = self.containers.reserve(id).ok_or_else(|| {
            context.error(
                ErrorKind::AlreadyExists,
                "this sandbox has a container of that id",
            )
        })?;
        let (engine, id, own) = (Arc::clone(self), id.to_owned(), context.clone());
        let work = async move { create(&engine, id, spec, slot, &own).await };
        self.complete(&context, work, |engine, record| async move {
            if let Err(error) = engine.delete_container(&record).await {
                log::warn!(sandbox_id = engine.id(), error:%; "left behind");
            }
        })
        .await
    }
}

async fn create(
    engine: &Arc<Engine>,
    id: String,
    mut spec: ContainerSpec,
    slot: Slot,
    context: &Context,
) -> Result<Arc<ContainerRecord>> {
    say_what_is_ignored(engine, &id, &spec.spec);
    let process = with_terminal(std::mem::take(spec.process()), &spec.stdio);
    spec.spec.set_process(Some(process.clone()));
    let mode = spec.stdio.clone();
    let user = spec.user.as_ref().and_then(GuestUser::to_look_up);
    let hooks = HostHooks::take(&id, &mut spec);
    let tie = Tie::to(spec.on_host.tied_to, context)?;
    let sharing = sharing::resolve(engine, &mut spec, context)?;
    let streams = streams::open(engine, &mode, &id, "", context);
    let shared = {
        let (engine, id, context) = (Arc::clone(engine), id.clone(), context.clone());
        tokio::task::spawn_blocking(move || translate(&engine.shares, &id, &spec, &context))
    };
    let (streams, shared) = tokio::join!(streams, shared);
    let (streams, translated) = (streams?, shared.map_err(|e| context.join(e))??);
    let Translated {
        mut spec,
        shares,
        mut storages,
        root_disk,
        block_devices,
    } = translated;
    sharing.apply(&mut spec);
    let linux = spec.linux().as_ref();
    let limits = Limits::of(linux.and_then(|linux| linux.resources().as_ref()));
    let asked = engine.size.ask(limits);
    engine.grow_for(Limits::default()).await;
    let mut disks = Claimed::new(engine);
    let mut devices = Vec::new();
    let attached = async {
        if let Some(mut root) = root_disk {
            root.storage.source = disks::address(disks.claim(&root.disk, context).await?);
            storages.push(root.storage);
        }
        for block in &block_devices {
            devices.push(block.device(disks.claim(&block.disk, context).await?));
        }
        engine.expect_end(&hooks, context).await?;
        hooks.create(context).await
    };
    if let Err(error) = attached.await {
        return Err(undo(engine, error, disks, &hooks, context).await);
    }
    let [stdin_port, stdout_port, stderr_port] = streams.ports;
    let request = CreateContainerRequest {
        container_id: id.clone(),
        exec_id: id.clone(),
        string_user: user,
        devices,
        storages,
        oci: Some(wire::spec(&spec)),
        sandbox_pidns: sharing.pid,
        stdin_port,
        stdout_port,
        stderr_port,
        ..CreateContainerRequest::default()
    };
    if let Err(error) = ask(engine, request, context).await {
        return Err(undo(engine, error, disks, &hooks, context).await);
    }
    let terminal = streams::terminal(&mode).is_some();
    let held = Held {
        shares,
        limits,
        disks: disks.keep(),
        hooks,
    };
    let record = ContainerRecord::new(slot.key(), process, terminal, streams, held);
    engine.reach("container made");
    slot.enter(&record);
    drop(asked);
    record.step(engine, ContainerStep::Created);
    tie::container(engine, &record, tie);
    Ok(record)
}

/// Has the agent make it.
async fn ask(engine: &Engine, request: CreateContainerRequest, context: &Context) -> Result<()> {
    let agent = &engine.agent;
    let call = agent.calls().create_container(&request, agent.deadline());
    let Err(error) = engine.call(context, call).await else {
        return Ok(());
    };
    if error.kind() == ErrorKind::Timeout {
        // It may have been made since: better try in vain.
        let request = RemoveContainerRequest {
            container_id: request.container_id,
            timeout: 0,
        };
        let removed = agent.calls().remove_container(&request, agent.deadline());
        drop(removed.await);
    }
    Err(error)
}

/// Takes back what was done for a container that is not made after all.
async fn undo(
    engine: &Engine,
    error: Error,
    disks: Claimed<'_>,
    hooks: &HostHooks,
    context: &Context,
) -> Error {
    disks.release().await;
    engine.tell_end(hooks, context).await;
    error
}

/// Disks that were attached for a container that is being made.
struct Claimed<'a> {
    engine: &'a Engine,
    ids: Vec<String>,
}

impl<'a> Claimed<'a> {
    fn new(engine: &'a Engine) -> Self {
        Self {
            engine,
            ids: Vec::new(),
        }
    }

    async fn claim(&mut self, disk: &Wanted, context: &Context) -> Result<&str> {
        let engine = self.engine;
        let id = engine.disks.claim(engine.vm(), disk, context).await?;
        self.ids.push(id);
        Ok(self.ids.last().map(String::as_str).unwrap_or_default())
    }

    fn keep(self) -> Vec<String> {
        self.ids
    }

    async fn release(self) {
        self.engine.release_disks(self.ids).await;
    }
}

impl Engine {
    /// A container no longer has these disks.
    pub(super) async fn release_disks(&self, ids: Vec<String>) {
        for id in ids {
            if let Err(error) = self.disks.release(self.vm(), &id).await {
                log::warn!(
                    sandbox_id = self.id(), disk = id.as_str(), error:%;
                    "a disk stays attached"
                );
            }
        }
    }
}

/// Fields that every client sets by default, and that mean nothing in a guest.
fn say_what_is_ignored(engine: &Engine, id: &str, spec: &oci::Spec) {
    const MODULES: &str = "the guest's kernel has no such security module";
    let process = spec.process().as_ref();
    let apparmor = process.and_then(|process| process.apparmor_profile().as_ref());
    let selinux = process.and_then(|process| process.selinux_label().as_ref());
    let mounts = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.mount_label().as_ref());
    let ignored = [
        ("process.apparmorProfile", apparmor.is_some()),
        ("process.selinuxLabel", selinux.is_some()),
        ("linux.mountLabel", mounts.is_some()),
    ];
    for (field, is_there) in ignored {
        if is_there {
            engine.say_ignored(id, field, MODULES);
        }
    }
}

/// The process with the terminal that its streams are to be, or none.
pub(super) fn with_terminal(mut process: oci::Process, mode: &StdioMode) -> oci::Process {
    let size = streams::terminal(mode);
    process.set_terminal(Some(size.is_some()));
    let console = size.map(|size| {
        let sized = oci::BoxBuilder::default()
            .height(size.rows)
            .width(size.cols)
            .build();
        sized.expect("every field has a default")
    });
    process
        .set_console_size(console)
        .set_apparmor_profile(None)
        .set_selinux_label(None);
    process
}
