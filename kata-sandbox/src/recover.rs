//! Taking stock: what there is in the state directory, and after a crash.
//!
//! Each sandbox is looked at by itself: one whose supervisor hangs, or whose
//! record is damaged, keeps no other from being recovered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use tokio::task::JoinSet;

use crate::engine::{self, journal_error};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::journal::{Failed, Left, Occupant};
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
    /// It could not be recovered, and is as it was: its supervisor does not
    /// answer, its record cannot be read, or something of it cannot be removed.
    Failed {
        /// Its id; the name of its directory where that does not say.
        id: String,
        /// Why, and what would help.
        error: Error,
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
        let status = match found {
            Ok(Found::Live(status)) => status,
            Ok(Found::Dead) => without_supervisor(id, SandboxState::Lost),
            Ok(Found::Elsewhere) => continue,
            Err(error) => {
                log::warn!(sandbox_id = id.as_str(), error:%; "its supervisor cannot be asked");
                without_supervisor(id, SandboxState::Unknown)
            }
        };
        listed.insert(status.id.clone(), status);
    }
    Ok(listed.into_values().collect())
}

fn without_supervisor(id: String, state: SandboxState) -> SandboxStatus {
    SandboxStatus {
        id,
        state,
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
    let dead = tokio::task::spawn_blocking(move || Ok((state.sweep()?, state.unfinished()?)));
    let (swept, unfinished) = dead
        .await
        .map_err(|error| context.join(error))?
        .map_err(|error| journal_error(&context, error))?;
    recovered.extend(swept.removed.into_iter().map(|id| gone(id, None)));
    recovered.extend(finish(unfinished.left, shared).await);
    let failed = swept.failed.into_iter().chain(unfinished.failed);
    recovered.extend(failed.map(|failed| untouched(failed, shared)));

    let known: BTreeSet<String> = recovered.iter().filter_map(dead_id).collect();
    recovered.extend(live(runtime, shared, &known, &context).await?);
    Ok(recovered)
}

/// The id of one that is known not to run.
fn dead_id(recovered: &Recovered) -> Option<String> {
    match recovered {
        Recovered::Live(_) => None,
        Recovered::Gone { id, .. } | Recovered::Failed { id, .. } => Some(id.clone()),
    }
}

/// One that a sweep has left as it was.
fn untouched(failed: Failed, shared: &Shared) -> Recovered {
    let Failed { id, error } = failed;
    let context = Context::new("recover sandbox", crate::id::shown(&id));
    let directory = shared.state.directory(&id);
    let remedy = format!(
        "see to it that what it names can be done, and recover again; {} says what there was",
        directory.display()
    );
    let error = journal_error(&context, error).with_remedy(remedy);
    Recovered::Failed { id, error }
}

/// Finishes with sandboxes of dead processes, side by side.
async fn finish(left: Vec<Left>, shared: &Arc<Shared>) -> Vec<Recovered> {
    let mut finishing = JoinSet::new();
    for left in left {
        let shared = Arc::clone(shared);
        finishing.spawn(async move {
            let id = left.record().id.clone();
            let context = Context::new("recover sandbox", &*id);
            let failure = match engine::finish(left, &shared.network, &context).await {
                Ok(left) => left.remove().err().map(|error| error.to_string()),
                Err(error) => Some(format!("{error:#}")), // it stays as it was left
            };
            gone(id, failure)
        });
    }
    let mut finished = finishing.join_all().await;
    finished.sort_by_key(dead_id);
    finished
}

/// The sandboxes that run: those of this runtime, and those with supervisors.
async fn live(
    runtime: &Runtime,
    shared: &Arc<Shared>,
    known: &BTreeSet<String>,
    context: &Context,
) -> Result<Vec<Recovered>> {
    let own: BTreeMap<_, _> = shared
        .registry
        .all()
        .into_iter()
        .map(|home| (home.id().to_owned(), home))
        .collect();
    let mut attaching = JoinSet::new();
    for id in recorded(shared, context).await? {
        if !own.contains_key(&id) && !known.contains(&id) {
            let (runtime, shared) = (runtime.clone(), Arc::clone(shared));
            attaching.spawn(async move {
                let attached = runtime.attach(&id).await;
                let found = match attached {
                    Ok(sandbox) => Some(Recovered::Live(sandbox)),
                    Err(error) => unattached(&shared, &id, error).await,
                };
                (id, found)
            });
        }
    }
    let mut recovered: BTreeMap<_, _> = own
        .into_iter()
        .map(|(id, home)| (id, Recovered::Live(Sandbox::new(home))))
        .collect();
    while let Some(found) = attaching.join_next().await {
        if let (id, Some(found)) = found.map_err(|error| context.join(error))? {
            recovered.insert(id, found);
        }
    }
    Ok(recovered.into_values().collect())
}

/// What there is to say of a sandbox that cannot be attached to.
async fn unattached(shared: &Arc<Shared>, id: &str, error: Error) -> Option<Recovered> {
    let passing = match error.kind() {
        // It is in another program, which is no supervisor.
        ErrorKind::NotFound | ErrorKind::InvalidState => true,
        // It was deleted, or died, since: unless somebody still has it.
        ErrorKind::GuestLost => occupant(shared, id).await.is_none(),
        _ => false,
    };
    if passing {
        log::debug!(sandbox_id = id, error:%; "not recovered");
        return None;
    }
    let by = match occupant(shared, id).await {
        Some(pid) => format!(", process {pid},"),
        None => String::new(),
    };
    let remedy =
        format!("see why its supervisor{by} does not answer; end that process, and recover again");
    Some(Recovered::Failed {
        id: id.to_owned(),
        error: error.with_remedy(remedy),
    })
}

/// The process that has a sandbox, where there is one that is known.
async fn occupant(shared: &Arc<Shared>, id: &str) -> Option<u32> {
    let (state, id) = (shared.state.clone(), id.to_owned());
    match tokio::task::spawn_blocking(move || state.occupant(&id)).await {
        Ok(Occupant::Process(pid)) => pid,
        _ => None,
    }
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
