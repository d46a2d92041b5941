//! What can be asked of a sandbox's networks.

use std::sync::Arc;
use std::time::Duration;

use kata_network::{GuestInterface, Network, RateLimits, Route, Rule};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Operation;
use crate::engine::Engine;
use crate::error::{ErrorKind, Result};

/// How long plugins may take, and a guest to let go of a device.
const NETWORK: Duration = Duration::from_secs(300);

/// Connects the sandbox to a network more.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AddNetwork {
    pub(crate) name: String,
    /// The network itself, where it need not travel.
    #[serde(skip)]
    pub(crate) network: Option<Arc<dyn Network>>,
    /// What it is called, and how it describes itself.
    pub(crate) kind: String,
    pub(crate) description: Option<Value>,
}

impl AddNetwork {
    pub(crate) fn new(name: &str, network: Arc<dyn Network>) -> Self {
        Self {
            name: name.to_owned(),
            kind: network.name().to_owned(),
            description: network.description(),
            network: Some(network),
        }
    }
}

impl Operation for AddNetwork {
    const NAME: &'static str = "add network to sandbox";

    type Reply = Vec<GuestInterface>;

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        let context = engine.context(Self::NAME);
        let network = match (self.network, &self.description) {
            (Some(network), _) => network,
            (None, Some(words)) => {
                kata_network::from_description(words).map_err(|error| context.network(error))?
            }
            (None, None) => engine.own_network(&self.kind).await.ok_or_else(|| {
                let kind = &self.kind;
                let reason = format!("the supervisor does not know the network {kind:?}");
                let error = context.error(ErrorKind::Unsupported, reason);
                error.with_remedy("give one that Network::description describes")
            })?,
        };
        engine.add_network(&self.name, network).await
    }

    fn patience(&self) -> Duration {
        NETWORK
    }
}

/// Disconnects it from a network that was added.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RemoveNetwork {
    pub(crate) name: String,
}

impl Operation for RemoveNetwork {
    const NAME: &'static str = "remove network from sandbox";

    type Reply = ();

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        engine.remove_network(&self.name).await
    }

    fn patience(&self) -> Duration {
        NETWORK
    }
}

/// Looks again at what the networks have.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RescanNetworks {}

impl Operation for RescanNetworks {
    const NAME: &'static str = "look at networks of sandbox again";

    type Reply = Vec<GuestInterface>;

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        engine.rescan_networks().await
    }

    fn patience(&self) -> Duration {
        NETWORK
    }
}

/// The interfaces.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Interfaces {}

impl Operation for Interfaces {
    const NAME: &'static str = "list interfaces of sandbox";

    type Reply = Vec<GuestInterface>;

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        Ok(engine.interfaces().await)
    }
}

/// Routes and rules.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Routes {}

impl Operation for Routes {
    const NAME: &'static str = "list routes of sandbox";

    type Reply = (Vec<Route>, Vec<Rule>);

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        Ok(engine.routes().await)
    }
}

/// Changes an interface.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SetInterface {
    pub(crate) wanted: GuestInterface,
}

impl Operation for SetInterface {
    const NAME: &'static str = "change interface of sandbox";

    type Reply = ();

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        engine.set_interface(self.wanted).await
    }
}

/// Changes all routes and rules.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SetRoutes {
    pub(crate) routes: Vec<Route>,
    pub(crate) rules: Vec<Rule>,
}

impl Operation for SetRoutes {
    const NAME: &'static str = "change routes of sandbox";

    type Reply = ();

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        engine.set_routes(self.routes, self.rules).await
    }
}

/// Limits what goes through an interface.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LimitInterface {
    pub(crate) interface: String,
    pub(crate) limits: RateLimits,
}

impl Operation for LimitInterface {
    const NAME: &'static str = "limit interface of sandbox";

    type Reply = ();

    async fn perform(self, engine: &Arc<Engine>) -> Result<Self::Reply> {
        engine.limit_interface(&self.interface, &self.limits).await
    }
}
