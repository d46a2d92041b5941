//! What can be done to a container that runs.

use std::sync::Arc;

use kata_protocol::agent::{
    PauseContainerRequest, ResumeContainerRequest, TtyWinResizeRequest, UpdateContainerRequest,
};
use kata_protocol::oci as wire;
use oci_spec::runtime as oci;

use super::Engine;
use super::container::ContainerRecord;
use super::process::ProcessRecord;
use crate::error::{ErrorKind, Result};
use crate::sizing::Limits;
use crate::state::ContainerStep;
use crate::stdio::PtySize;

impl Engine {
    /// Freezes or thaws a container's processes.
    pub(crate) async fn set_container_paused(
        self: &Arc<Self>,
        record: &Arc<ContainerRecord>,
        paused: bool,
    ) -> Result<()> {
        let name = if paused {
            "pause container"
        } else {
            "resume container"
        };
        let context = self.container_context(name, record.id());
        let (engine, record, own) = (Arc::clone(self), Arc::clone(record), context.clone());
        let work = async move {
            let _changing = record.change().await;
            let step = match paused {
                true => ContainerStep::Pause,
                false if record.was_started() => ContainerStep::Resume,
                false => ContainerStep::ResumeUnstarted,
            };
            if record.state().after(step).is_none() {
                return record.refuse(&own);
            }
            let (container_id, agent) = (record.id().to_owned(), &engine.agent);
            let (calls, deadline) = (agent.calls(), agent.deadline());
            if paused {
                let request = PauseContainerRequest { container_id };
                engine
                    .call(&own, calls.pause_container(&request, deadline))
                    .await?;
            } else {
                let request = ResumeContainerRequest { container_id };
                engine
                    .call(&own, calls.resume_container(&request, deadline))
                    .await?;
            }
            record.step(&engine, step);
            Ok(())
        };
        self.complete(&context, work, |_, ()| async {}).await
    }

    /// Changes a container's limits.
    pub(crate) async fn update_container(
        &self,
        record: &ContainerRecord,
        resources: &oci::LinuxResources,
    ) -> Result<()> {
        let context = self.container_context("update container", record.id());
        let limits = Limits::of(Some(resources));
        let before = record.limits();
        // A limit that is not named stays.
        let limits = Limits {
            millicpus: if limits.millicpus == 0 {
                before.millicpus
            } else {
                limits.millicpus
            },
            memory: if limits.memory == 0 {
                before.memory
            } else {
                limits.memory
            },
        };
        self.grow_for(Limits {
            millicpus: limits.millicpus.saturating_sub(before.millicpus),
            memory: limits.memory.saturating_sub(before.memory),
        })
        .await;
        let request = UpdateContainerRequest {
            container_id: record.id().to_owned(),
            resources: Some(wire::resources(resources)),
        };
        let call = self
            .agent
            .calls()
            .update_container(&request, self.agent.deadline());
        self.call(&context, call).await?;
        record.set_limits(limits);
        Ok(())
    }

    /// Tells a process's terminal its size.
    pub(crate) async fn resize_terminal(
        &self,
        record: &ContainerRecord,
        process: &ProcessRecord,
        size: PtySize,
    ) -> Result<()> {
        let context = self.container_context("resize terminal", record.id());
        if !process.terminal {
            return Err(context.error(ErrorKind::InvalidState, "the process has no terminal"));
        }
        let request = TtyWinResizeRequest {
            container_id: record.id().to_owned(),
            exec_id: process.exec_id().to_owned(),
            row: size.rows.into(),
            column: size.cols.into(),
        };
        let call = self
            .agent
            .calls()
            .tty_win_resize(&request, self.agent.deadline());
        self.call(&context, call).await
    }
}
