//! What can be asked of a sandbox.

mod container;
mod network;
mod sandbox;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ContainerKey, Packet, Reply};
use crate::engine::{ContainerRecord, Engine};
use crate::error::{ErrorKind, Result};

pub(crate) use container::{
    Attach, ContainerUsage, Create, Delete, Execute, Find, Processes, Recipient, ResizeTerminal,
    SendSignal, SetContainerPaused, Start, Update,
};
pub(crate) use network::{
    AddNetwork, Interfaces, LimitInterface, RemoveNetwork, RescanNetworks, Routes, SetInterface,
    SetRoutes,
};
pub(crate) use sandbox::{Console, DeleteSandbox, Dial, Resize, SetPaused, Stop, Usage};

/// Something that can be asked of a sandbox, wherever its engine is.
pub(crate) trait Operation: Into<Request> + Send + 'static {
    /// What errors call it.
    const NAME: &'static str;

    /// What it comes to.
    type Reply: Reply;

    /// Does it. Dropping the future leaves nothing half done.
    fn perform(self, engine: &Arc<Engine>) -> impl Future<Output = Result<Self::Reply>> + Send;

    /// How much longer than a call to the agent it may take.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }
}

/// Declares the operations, and the one type that carries any of them.
macro_rules! operations {
    ($($name:ident),* $(,)?) => {
        /// Any operation, as it travels.
        #[derive(Debug, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub(crate) enum Request {
            $($name($name),)*
        }

        $(impl From<$name> for Request {
            fn from(operation: $name) -> Self {
                Self::$name(operation)
            }
        })*

        impl Request {
            /// Performs it, and packs what it comes to.
            pub(crate) async fn perform(self, engine: &Arc<Engine>) -> Result<Packet> {
                match self {
                    $(Self::$name(operation) => operation.perform(engine).await?.pack(engine),)*
                }
            }
        }
    };
}

operations! {
    Create, Delete, Start, Attach, Execute, Find, SendSignal, SetContainerPaused, ResizeTerminal,
    Update, ContainerUsage, Processes, SetPaused, Resize, Usage, Console, Dial, Stop, DeleteSandbox,
    AddNetwork, RemoveNetwork, RescanNetworks, Interfaces, Routes, SetInterface, SetRoutes,
    LimitInterface,
}

/// The container, unless it was deleted.
fn find(
    engine: &Engine,
    key: &ContainerKey,
    operation: &'static str,
) -> Result<Arc<ContainerRecord>> {
    engine.containers().find(key).ok_or_else(|| {
        let context = engine.container_context(operation, &key.id);
        context.error(ErrorKind::NotFound, "the container was deleted")
    })
}
