//! Removing containers.

use std::rc::Rc;
use std::time::Duration;

use kata_protocol::agent::RemoveContainerRequest;
use kata_protocol::ttrpc::{Code, Status};
use log::warn;

use super::container::Container;
use super::{Containers, hooks, state};
use crate::process::Task;

impl Containers {
    /// Ends a container and forgets it.
    ///
    /// # Errors
    /// `DEADLINE_EXCEEDED` when its processes do not end in time, of which there
    /// is no limit if the request has none; it can be asked again then.
    pub(crate) async fn remove(
        self: &Rc<Self>,
        request: RemoveContainerRequest,
    ) -> Result<(), Status> {
        let container = self.find(&request.container_id)?;
        let end = end(&container);
        if request.timeout == 0 {
            end.await?;
        } else {
            let limit = Duration::from_secs(request.timeout.into());
            tokio::time::timeout(limit, end).await.map_err(|_| {
                let message = format!(
                    "container {:?} did not end within {} s",
                    request.container_id, request.timeout
                );
                Status::new(Code::DeadlineExceeded, message)
            })??;
        }
        // Of several calls that waited, one goes on.
        if self
            .all
            .borrow_mut()
            .remove(&request.container_id)
            .is_none()
        {
            return Ok(());
        }
        let blueprint = &container.blueprint;
        if !blueprint.hooks.poststop.is_empty() {
            let state = blueprint.state(state::Status::Stopped, 0);
            let run = || hooks::run_all(&blueprint.hooks.poststop, &state).map(|()| Vec::new());
            // The container is gone; the specification wants a warning.
            if let Err(status) = Task::start(&[], run)?.result().await {
                warn!(container = blueprint.id.as_str(), error:% = status; "poststop");
            }
        }
        Ok(())
    }

    /// Ends every container and drops what they shared. Failures are logged:
    /// whoever calls this is going down.
    pub(crate) async fn destroy_all(self: &Rc<Self>) {
        let ids: Vec<String> = self.all.borrow().keys().cloned().collect();
        let mut removals = tokio::task::JoinSet::new();
        for id in ids {
            let containers = Rc::clone(self);
            removals.spawn_local(async move {
                let request = RemoveContainerRequest {
                    container_id: id.clone(),
                    timeout: 10,
                };
                if let Err(status) = containers.remove(request).await {
                    warn!(container = id.as_str(), error:% = status; "cannot remove it");
                }
            });
        }
        while removals.join_next().await.is_some() {}
        self.sandbox.take();
    }
}

async fn end(container: &Container) -> Result<(), Status> {
    container.init.note_kill();
    container
        .execs
        .borrow()
        .values()
        .for_each(|process| process.note_kill());
    // One that was created but not started waits for this socket.
    container.control.take();
    container.cgroup.kill()?;
    container.init.child.wait().await;
    container.cgroup.emptied().await?;
    container.cgroup.remove()
}
