//! The sandbox's network, as the host wants it: both address families alike.

mod address;
mod idle;
mod interface;
mod link;
mod neighbor;
mod prefix;
mod route;
mod rule;

use std::io;

use std::time::Duration;

use kata_protocol::agent::{Network, NetworkStats};
use kata_protocol::ttrpc::Status;

pub(crate) use interface::{list as list_interfaces, update as update_interface};
pub(crate) use neighbor::add as add_neighbors;
pub(crate) use route::{list as list_routes, update as update_routes};
pub(crate) use rule::update as update_rules;

/// Configures all of it: each part stands on those before.
pub(crate) async fn configure(network: &Network, limit: Duration) -> Result<(), Status> {
    for interface in &network.interfaces {
        interface::update(interface, limit).await?;
    }
    interface::hide_others(&network.interfaces)?;
    if !network.routes.is_empty() {
        route::update(&network.routes)?;
    }
    rule::update(&network.rules)?;
    neighbor::add(&network.neighbors)
}

/// Brings the loopback interface up.
pub(crate) fn loopback_up() -> io::Result<()> {
    link::Change::up().of_name("lo")
}

/// Counters of each interface.
pub(crate) fn stats() -> io::Result<Vec<NetworkStats>> {
    Ok(link::list()?
        .into_iter()
        .filter_map(|link| link.counters)
        .collect())
}
