//! Taking a container away.

use std::sync::Arc;

use kata_protocol::agent::RemoveContainerRequest;

use super::hooks::HostHooks;
use super::{ContainerRecord, Engine};
use crate::error::{Context, ErrorKind, Result};
use crate::event::Event;
use crate::exit::{Exit, Signal};
use crate::journal::HooksRecord;
use crate::state::ContainerStep;

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
                engine.tell_end(record.hooks(), &own).await;
                return Ok(exit);
            }
            if is_there {
                engine.tell_end(record.hooks(), &own).await;
            }
            forget(&engine, &record);
            Ok(record.init().exit())
        };
        self.complete(&context, work, |_, _| async {}).await
    }
}

impl Engine {
    /// Writes down which programs of the host are to hear of a container's end,
    /// in case that this process does not live to tell them.
    pub(super) async fn expect_end(&self, hooks: &HostHooks, context: &Context) -> Result<()> {
        match hooks.record() {
            Some(hooks) => self.site.lock().await.note_hooks(hooks, context).await,
            None => Ok(()),
        }
    }

    /// Tells of the ends of all containers of a sandbox that has ended.
    pub(crate) async fn tell_all_ends(self: &Arc<Self>) {
        for record in self.containers.all() {
            if record.hooks().record().is_none() {
                continue;
            }
            if let Err(error) = self.delete_container(&record).await {
                log::warn!(sandbox_id = self.id(), error:%; "its hooks have not run");
            }
        }
    }

    /// Tells them of it, past failures.
    pub(super) async fn tell_end(&self, hooks: &HostHooks, context: &Context) {
        let Some(HooksRecord { container, .. }) = hooks.record() else {
            return;
        };
        hooks.poststop(context).await;
        self.reach("hooks heard");
        // Where that cannot be written, they may hear of it twice.
        if let Err(error) = self.site.lock().await.note_heard(&container, context).await {
            log::warn!(sandbox_id = self.id(), error:%; "a hook is not known to have run");
        }
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
    context: &Context,
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
            if !record.was_started() {
                record.step(engine, ContainerStep::Exited);
            }
            Ok(exit)
        }
    }
}
