//! Taking stock after a crash.

use std::sync::Arc;

use crate::engine::journal_error;
use crate::error::{Context, Result};
use crate::runtime::{Runtime, Shared};
use crate::sandbox::Sandbox;

/// A sandbox that was found by [`Runtime::recover`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Recovered {
    /// It runs.
    Live(Sandbox),
    /// Its process has died, and it with it.
    Gone {
        /// Its id.
        id: String,
        /// Whether nothing of it is left on the host.
        cleaned: bool,
        /// What became of it.
        reason: String,
    },
}

pub(crate) async fn recover(runtime: &Runtime, shared: &Arc<Shared>) -> Result<Vec<Recovered>> {
    let context = Context::new("recover", shared.state.path().display().to_string());
    let mut recovered: Vec<_> = shared
        .registry
        .all()
        .into_iter()
        .map(|keeper| Recovered::Live(Sandbox::new(keeper)))
        .collect();
    recovered.extend(runtime.take_swept().into_iter().map(|id| gone(id, None)));

    let state = shared.state.clone();
    let dead = tokio::task::spawn_blocking(move || {
        let swept = state.sweep()?;
        Ok::<_, crate::journal::JournalError>((swept, state.with_networks()?))
    });
    let (swept, networks) = dead
        .await
        .map_err(|error| context.join(error))?
        .map_err(|error| journal_error(&context, error))?;
    recovered.extend(swept.into_iter().map(|id| gone(id, None)));
    for (left, record) in networks {
        let known = record.network.as_deref() == Some(shared.network.name());
        let failure = if known {
            shared
                .network
                .teardown(&record.id)
                .await
                .err()
                .map(|error| error.to_string())
        } else {
            let name = record.network.as_deref().unwrap_or_default();
            Some(format!("its network {name:?} is not this runtime's"))
        };
        let failure = match failure {
            None => left.remove().err().map(|error| error.to_string()),
            failure => failure, // it stays as it was left
        };
        recovered.push(gone(record.id, failure));
    }
    Ok(recovered)
}

fn gone(id: String, failure: Option<String>) -> Recovered {
    let cleaned = failure.is_none();
    let reason = match failure {
        None => "its process has died".to_owned(),
        Some(failure) => format!("its process has died; {failure}"),
    };
    Recovered::Gone {
        id,
        cleaned,
        reason,
    }
}
