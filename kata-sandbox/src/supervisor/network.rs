//! The network of a sandbox that another process has asked for.

use std::sync::Arc;

use kata_network::Network;
use serde_json::Value;

use super::message::Begin;
use crate::error::{Context, ErrorKind, Result};
use crate::runtime::Shared;

/// What the network says of itself to another process.
pub(super) fn describe(_network: &dyn Network) -> Option<Value> {
    None
}

/// The network that was described; or the one of that name that this process
/// has been given.
pub(super) fn restore(
    shared: &Shared,
    begin: &Begin,
    context: &Context,
) -> Result<Arc<dyn Network>> {
    let none: Arc<dyn Network> = Arc::new(kata_network::None);
    let known = [&shared.network, &none];
    let named = known
        .into_iter()
        .find(|network| network.name() == begin.network_name);
    named.map(Arc::clone).ok_or_else(|| {
        let reason = format!(
            "the supervisor does not know the network {:?}",
            begin.network_name
        );
        let error = context.error(ErrorKind::Unsupported, reason);
        error.with_remedy("add it in what the supervisor's program passes to `serve`")
    })
}
