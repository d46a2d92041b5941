//! Taking a container away.

use std::sync::Arc;

use kata_protocol::agent::RemoveContainerRequest;

use super::{ContainerRecord, Engine};
use crate::error::{ErrorKind, Result};
use crate::event::Event;
use crate::exit::{Exit, Signal};
use crate::state::{ContainerState, ContainerStep};

impl Engine {
    /// Kills what runs in the container and takes it away. Answers how its
    /// first process ended, if it was started. Idempotent.
    pub(crate) async fn delete_container(
        self: &Arc<Self>,
        record: &Arc<ContainerRecord>,
    ) -> Result<Option<Exit>> {
        let context = self.container_context("delete container", record.id());
        let (engine, record, own) = (Arc::clone(self), Arc::clone(record), context.clone());
        let work = async move {
            let _changing = record.change().await;
            let is_there = is_current(&engine, &record);
            if is_there && !engine.state().has_ended() {
                let exit = remove(&engine, &record, &own).await?;
                engine.release_disks(record.take_disks()).await;
                forget(&engine, &record);
                record.hooks().poststop(&own).await;
                return Ok(exit);
            }
            if is_there {
                record.hooks().poststop(&own).await;
            }
            forget(&engine, &record);
            Ok(record.init().exit())
        };
        self.complete(&context, work, |_, _| async {}).await
    }
}

fn is_current(engine: &Engine, record: &Arc<ContainerRecord>) -> bool {
    engine
        .containers
        .get(record.id())
        .is_some_and(|entry| Arc::ptr_eq(&entry, record))
}

/// The guest no longer has it: nor need the host.
fn forget(engine: &Engine, record: &Arc<ContainerRecord>) {
    engine.reach("container gone");
    record.release_shares();
    if engine.containers.remove(record) {
        engine.events.send(&Event::ContainerDeleted {
            sandbox: engine.id.clone(),
            container: record.id().to_owned(),
        });
    }
}

async fn remove(
    engine: &Engine,
    record: &Arc<ContainerRecord>,
    context: &crate::error::Context,
) -> Result<Option<Exit>> {
    let agent = &engine.agent;
    let mut exit = record.init().exit();
    record.give_up();
    if record.is_live() && exit.is_none() {
        // It may end by itself in between; the wait is what counts.
        let killed = record.send_signal(engine, Signal::KILL, true).await;
        let deadline = agent.deadline().unwrap_or_default();
        exit = match tokio::time::timeout(deadline, record.init().exited()).await {
            Ok(exit) => Some(exit),
            Err(_) => {
                killed?;
                let reason = "its processes did not end when they were killed";
                return Err(context.error(ErrorKind::Timeout, reason));
            }
        };
    }
    let request = RemoveContainerRequest {
        container_id: record.id().to_owned(),
        timeout: 0,
    };
    let removed = agent
        .calls()
        .remove_container(&request, agent.deadline())
        .await;
    match engine.explain(context, removed) {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::GuestLost) => {
            Err(error)
        }
        _ => {
            if record.state() == ContainerState::Created {
                record.step(engine, ContainerStep::Exited);
            }
            Ok(exit)
        }
    }
}
