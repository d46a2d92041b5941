//! What is left to do for a sandbox whose process has died.
//!
//! In the order of a life that ends well: hooks hear of the containers' ends,
//! then the network goes. What was done is written down, so that what fails or
//! is given up can be taken up again; a hook may hear twice, and is never missed.

use std::sync::Arc;
use std::time::Duration;

use kata_network::Network;

use super::hooks;
use super::site::journal_error;
use crate::error::{Context, ErrorKind, Result};
use crate::journal::{Left, NetworkRecord};

/// How long a hook without a timeout may take: nobody waits for the container
/// by name any more, and others do for what comes next.
const HOOK: Duration = Duration::from_secs(60);

/// Does all that its record says is left to do, and returns what is to be
/// removed then. `own` is this runtime's network.
///
/// # Errors
/// When the network cannot be torn down, or this program does not know it. What
/// is left stays written down.
pub(crate) async fn finish(
    mut left: Left,
    own: &Arc<dyn Network>,
    context: &Context,
) -> Result<Left> {
    tell_ends(&mut left, context).await?;
    let record = left.record();
    for noted in record.network.iter().chain(&record.added).rev() {
        let network = noted_network(noted, own).ok_or_else(|| {
            let reason = format!("its network {:?} is not this runtime's", noted.name);
            let error = context.error(ErrorKind::Unsupported, reason);
            error.with_remedy("recover with the program that started it")
        })?;
        let subject = noted.subject.as_ref().unwrap_or(&record.id);
        let torn_down = network.teardown(subject).await;
        torn_down.map_err(|error| context.network(error))?;
    }
    Ok(left)
}

/// Tells hooks of the ends of containers that nobody has deleted.
///
/// # Errors
/// When it cannot be written down that they have heard.
pub(super) async fn tell_ends(left: &mut Left, context: &Context) -> Result<()> {
    if left.record().hooks.is_empty() {
        return Ok(());
    }
    for untold in &left.record().hooks {
        hooks::run_left(untold, HOOK, context).await;
    }
    let note = left.note(|record| record.hooks.clear());
    let noted = tokio::task::spawn_blocking(note).await;
    noted
        .map_err(|error| context.join(error))?
        .map_err(|error| journal_error(context, error))
}

/// The network that a dead process has noted, to tear it down: one made of its
/// description, else the runtime's own where that has its name.
fn noted_network(noted: &NetworkRecord, own: &Arc<dyn Network>) -> Option<Arc<dyn Network>> {
    let described = || {
        let words = noted.description.as_ref()?;
        kata_network::from_description(words).ok()
    };
    // Two networks of one name may differ: the description is exact.
    described().or_else(|| (noted.name == own.name()).then(|| Arc::clone(own)))
}
