//! Taking stock: what there is in the state directory, and after a crash.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use tokio::task::JoinSet;

use crate::engine::{journal_error, noted_network};
use crate::error::{Context, Result};
use crate::home::Home;
use crate::journal::Record;
use crate::runtime::{Runtime, Shared};
use crate::sandbox::{Sandbox, SandboxStatus};
use crate::state::SandboxState;
use crate::supervisor::{self, Found};

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

/// The sandboxes of this runtime, and all that have a supervisor.
pub(crate) async fn list(shared: &Arc<Shared>) -> Result<Vec<SandboxStatus>> {
    let context = Context::new("list sandboxes", shared.state.path().display().to_string());
    let own = shared.registry.all();
    let mut listed: BTreeMap<String, SandboxStatus> = own
        .into_iter()
        .map(|home| (home.id().to_owned(), Sandbox::new(home).status()))
        .collect();
    let mut looking = JoinSet::new();
    for id in recorded(shared, &context).await? {
        if !listed.contains_key(&id) {
            let shared = Arc::clone(shared);
            looking.spawn(async move { (supervisor::look(&shared, &id).await, id) });
        }
    }
    while let Some(found) = looking.join_next().await {
        let (found, id) = found.map_err(|error| context.join(error))?;
        let status = match found? {
            Found::Live(status) => status,
            Found::Dead => lost(id),
            Found::Elsewhere => continue,
        };
        listed.insert(status.id.clone(), status);
    }
    Ok(listed.into_values().collect())
}

fn lost(id: String) -> SandboxStatus {
    SandboxStatus {
        id,
        state: SandboxState::Lost,
        created: UNIX_EPOCH,
        labels: BTreeMap::new(),
    }
}

/// The ids of all sandboxes that are written down.
async fn recorded(shared: &Arc<Shared>, context: &Context) -> Result<Vec<String>> {
    let state = shared.state.clone();
    let ids = tokio::task::spawn_blocking(move || state.ids()).await;
    ids.map_err(|error| context.join(error))?
        .map_err(|error| journal_error(context, error))
}

pub(crate) async fn recover(runtime: &Runtime, shared: &Arc<Shared>) -> Result<Vec<Recovered>> {
    let context = Context::new("recover", shared.state.path().display().to_string());
    let mut recovered = Vec::new();
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
    for left in networks {
        let id = left.record().id.clone();
        let failure = tear_down(left.record(), shared).await.err();
        let failure = match failure {
            None => left.remove().err().map(|error| error.to_string()),
            failure => failure, // it stays as it was left
        };
        recovered.push(gone(id, failure));
    }
    recovered.extend(live(runtime, shared, &context).await?);
    Ok(recovered)
}

/// Tears down the network that a dead process has left.
async fn tear_down(record: &Record, shared: &Shared) -> std::result::Result<(), String> {
    let Some(noted) = &record.network else {
        return Ok(());
    };
    let Some(network) = noted_network(noted, &shared.network) else {
        return Err(format!(
            "its network {:?} is not this runtime's",
            noted.name
        ));
    };
    let torn_down = network.teardown(&record.id).await;
    torn_down.map_err(|error| error.to_string())
}

/// The sandboxes that run: those of this runtime, and those with supervisors.
async fn live(
    runtime: &Runtime,
    shared: &Arc<Shared>,
    context: &Context,
) -> Result<Vec<Recovered>> {
    let own = shared.registry.all();
    let mut live: BTreeMap<String, Arc<Home>> = own
        .into_iter()
        .map(|home| (home.id().to_owned(), home))
        .collect();
    let mut recovered = Vec::new();
    for id in recorded(shared, context).await? {
        if live.contains_key(&id) {
            continue;
        }
        if let Found::Live(_) = supervisor::look(shared, &id).await? {
            match runtime.attach(&id).await {
                Ok(sandbox) => recovered.push(Recovered::Live(sandbox)),
                // It was deleted, or died, since.
                Err(error) => log::debug!(sandbox_id = id.as_str(), error:%; "not recovered"),
            }
        }
    }
    while let Some((_, home)) = live.pop_first() {
        recovered.push(Recovered::Live(Sandbox::new(home)));
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
