//! The connection to the agent in the guest.

use std::sync::Arc;
use std::time::Duration;

use kata_protocol::agent::agent_client::AgentServiceClient;
use kata_protocol::ttrpc::Client;

/// The agent. Clones share the connection.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    calls: AgentServiceClient,
    connection: Client,
    deadline: Duration,
}

impl Agent {
    pub(crate) fn new(connection: Client, deadline: Duration) -> Self {
        Self {
            calls: AgentServiceClient(connection.clone()),
            connection,
            deadline,
        }
    }

    /// Its calls.
    pub(crate) fn calls(&self) -> &AgentServiceClient {
        &self.calls
    }

    /// The deadline of calls that do not wait for a workload.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        Some(self.deadline)
    }

    /// Waits until the connection has ended, and says why.
    pub(crate) async fn closed(&self) -> Arc<str> {
        self.connection.closed().await
    }
}
