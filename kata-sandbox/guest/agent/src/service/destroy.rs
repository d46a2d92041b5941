//! DestroySandbox, and the order in which the agent goes down.

use std::cell::Cell;

use kata_protocol::ttrpc::Status;
use tokio::sync::Notify;

use super::Agent;

/// That the agent is to go down.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    asked: Cell<bool>,
    changed: Notify,
}

impl Ending {
    /// Asks for it.
    pub(crate) fn ask(&self) {
        self.asked.set(true);
        self.changed.notify_waiters();
    }

    /// Waits until it is asked for.
    pub(crate) async fn asked(&self) {
        while !self.asked.get() {
            self.changed.notified().await;
        }
    }
}

/// Ends every container. The agent goes down once the answer is with the host,
/// even when something of the sandbox could not be undone: the machine's end
/// undoes it.
pub(super) async fn destroy(agent: &Agent) -> Result<(), Status> {
    agent.containers.destroy_all().await;
    let released = agent.storages.release_all().await;
    // Dirty pages of block devices; the machine will not write them later.
    let synced = crate::process::in_child(&[], || {
        rustix::fs::sync();
        Ok(Vec::new())
    })
    .await;
    agent.sandbox.replace(None);
    agent.ending.ask();
    released.and(synced.map(drop))
}
