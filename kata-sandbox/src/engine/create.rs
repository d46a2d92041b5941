//! Making a container, up to the point where its program could start.

use std::sync::Arc;

use kata_protocol::agent::{CreateContainerRequest, RemoveContainerRequest};
use kata_protocol::oci as wire;
use oci_spec::runtime as oci;

use super::Engine;
use super::container::ContainerRecord;
use super::containers::Slot;
use super::streams;
use super::translate::{Translated, translate};
use crate::error::{Context, ErrorKind, Result};
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
    let process = with_terminal(std::mem::take(spec.process()), &spec.stdio);
    spec.spec.set_process(Some(process.clone()));
    let mode = spec.stdio.clone();
    let user = spec.user.as_ref().and_then(GuestUser::to_look_up);
    let streams = streams::open(engine, &mode, &id, "", context);
    let shared = {
        let (engine, id, context) = (Arc::clone(engine), id.clone(), context.clone());
        tokio::task::spawn_blocking(move || translate(&engine.shares, &id, &spec, &context))
    };
    let (streams, shared) = tokio::join!(streams, shared);
    let (streams, translated) = (streams?, shared.map_err(|e| context.join(e))??);
    let Translated {
        spec,
        shares,
        storages,
    } = translated;
    let [stdin_port, stdout_port, stderr_port] = streams.ports;
    let request = CreateContainerRequest {
        container_id: id.clone(),
        exec_id: id.clone(),
        string_user: user,
        storages,
        oci: Some(wire::spec(&spec)),
        stdin_port,
        stdout_port,
        stderr_port,
        ..CreateContainerRequest::default()
    };
    let agent = &engine.agent;
    let call = agent.calls().create_container(&request, agent.deadline());
    if let Err(error) = engine.call(context, call).await {
        if error.kind() == ErrorKind::Timeout {
            // It may have been made since: better try in vain.
            let request = RemoveContainerRequest {
                container_id: id,
                timeout: 0,
            };
            drop(
                agent
                    .calls()
                    .remove_container(&request, agent.deadline())
                    .await,
            );
        }
        return Err(error);
    }
    let terminal = streams::terminal(&mode).is_some();
    let record = ContainerRecord::new(slot.key(), process, terminal, streams, shares);
    slot.enter(&record);
    record.step(engine, ContainerStep::Created);
    Ok(record)
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
    process.set_console_size(console);
    process
}
