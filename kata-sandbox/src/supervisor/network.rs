//! The network of a sandbox that another process has asked for.

use std::sync::Arc;

use kata_network::Network;

use super::message::Begin;
use crate::error::{Context, ErrorKind, Result};
use crate::runtime::Shared;

/// The network that was described; or, where it has no description, the one of
/// that name that this process has been given.
pub(super) fn restore(
    shared: &Shared,
    begin: &Begin,
    context: &Context,
) -> Result<Arc<dyn Network>> {
    if let Some(words) = &begin.network {
        let network = kata_network::from_description(words);
        return network.map_err(|error| context.network(error));
    }
    let own = &shared.network;
    let named = (own.name() == begin.network_name).then(|| Arc::clone(own));
    named.ok_or_else(|| {
        let reason = format!(
            "the supervisor does not know the network {:?}",
            begin.network_name
        );
        let error = context.error(ErrorKind::Unsupported, reason);
        error.with_remedy("add it in what the supervisor's program passes to `serve`")
    })
}
