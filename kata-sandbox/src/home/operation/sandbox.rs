//! What can be asked of a sandbox itself.

use std::sync::Arc;
use std::time::Duration;

use kata_hypervisor::{GuestStream, MemorySize};
use serde::{Deserialize, Serialize};

use super::Operation;
use crate::engine::Engine;
use crate::error::Result;
use crate::stats::SandboxStats;

/// Stops all processors, or lets them run again.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SetPaused {
    pub(crate) paused: bool,
}

impl Operation for SetPaused {
    const NAME: &'static str = "pause or resume sandbox";

    type Reply = ();

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        engine.set_paused(self.paused).await
    }
}

/// Changes the machine's size.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Resize {
    pub(crate) vcpus: u32,
    pub(crate) memory: MemorySize,
}

impl Operation for Resize {
    const NAME: &'static str = "resize sandbox";

    type Reply = (u32, MemorySize);

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        engine.resize(self.vcpus, self.memory).await
    }
}

/// What the sandbox uses.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Usage {}

impl Operation for Usage {
    const NAME: &'static str = "take stats of sandbox";

    type Reply = SandboxStats;

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        engine.stats().await
    }
}

/// The last bytes of the guest's console.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Console {}

impl Operation for Console {
    const NAME: &'static str = "read console of sandbox";

    type Reply = Vec<u8>;

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        Ok(engine.vm().console_tail())
    }
}

/// Connects to a vsock port in the guest.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Dial {
    pub(crate) port: u32,
}

impl Operation for Dial {
    const NAME: &'static str = "dial into sandbox";

    type Reply = GuestStream;

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        engine.dial(self.port).await
    }
}

/// Ends the sandbox.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stop {
    pub(crate) grace: Duration,
}

/// How long a sandbox may take to end, beside its grace.
const ENDING: Duration = Duration::from_secs(60);

impl Operation for Stop {
    const NAME: &'static str = "stop sandbox";

    type Reply = ();

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        engine.stop(self.grace).await
    }

    fn patience(&self) -> Duration {
        self.grace.saturating_add(ENDING)
    }
}

/// Ends the sandbox without grace, and frees its id. A supervisor ends then.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DeleteSandbox {}

impl Operation for DeleteSandbox {
    const NAME: &'static str = "delete sandbox";

    type Reply = ();

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        let stopped = engine.stop(Duration::ZERO).await;
        engine.tell_all_ends().await;
        let freed = engine.free_id().await;
        stopped.and(freed)
    }

    fn patience(&self) -> Duration {
        ENDING
    }
}
