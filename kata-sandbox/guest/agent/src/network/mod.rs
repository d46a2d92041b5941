//! The sandbox's network, as the host wants it: both address families alike.

mod address;
mod interface;
mod link;
mod neighbor;
mod prefix;
mod route;

use std::io;

use kata_protocol::agent::NetworkStats;

pub(crate) use interface::{list as list_interfaces, update as update_interface};
pub(crate) use neighbor::add as add_neighbors;
pub(crate) use route::{list as list_routes, update as update_routes};

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
