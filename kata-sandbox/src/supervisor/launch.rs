//! Starting a supervisor, and the sandbox in it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;

use super::client::Client;
use super::connect::{self, Connection};
use super::message::{Begin, Call, Purpose};
use super::spawn::spawn;
use super::{Supervisor, frame};
use crate::engine::Blueprint;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::Event;
use crate::image::Boot;
use crate::runtime::Shared;
use crate::state::SandboxState;

/// How much longer than the boot the process may take.
const MARGIN: Duration = Duration::from_secs(10);

/// The program that is to be started.
pub(crate) fn program<'a>(shared: &'a Shared, context: &Context) -> Result<&'a Supervisor> {
    shared.supervisor.as_ref().ok_or_else(|| {
        let reason = "OnDrop::Detach needs a supervisor, and the runtime has none";
        let error = context.error(ErrorKind::Unsupported, reason);
        error.with_remedy("say with RuntimeBuilder::supervisor how to start one")
    })
}

/// Starts a sandbox in a supervisor. Dropped at any moment, or failing, it
/// leaves nothing: a supervisor whose client goes before it has taken the sandbox
/// undoes what it has made.
pub(crate) async fn launch(
    shared: &Arc<Shared>,
    blueprint: Blueprint,
    boot: &Boot,
) -> Result<Client> {
    let context = Context::new("start sandbox", &*blueprint.id);
    let supervisor = program(shared, &context)?.clone();
    let reservation = shared.registry.reserve(&blueprint.id).ok_or_else(|| {
        context.error(
            ErrorKind::AlreadyExists,
            "this runtime has a sandbox of that id",
        )
    })?;
    let limit = blueprint.boot_timeout.saturating_add(MARGIN);
    let purpose = Purpose {
        begin: Some(Box::new(begin(shared, blueprint, boot))),
    };
    let started = tokio::time::timeout(limit, start(supervisor, &purpose, &context)).await;
    let Connection { ends, welcome } = started.map_err(|_| {
        let reason = format!(
            "its supervisor was not ready within {} ms",
            limit.as_millis()
        );
        context.error(ErrorKind::Timeout, reason)
    })??;
    if let Some(verified) = &welcome.verified {
        shared.images.learn(boot, verified.clone());
    }
    shared.backends.recall(&welcome.knowledge);
    let running = Event::SandboxState {
        sandbox: welcome.facts.id.clone(),
        state: SandboxState::Running,
    };
    let client = Client::new(ends, welcome, shared.events.clone(), Some(reservation));
    shared.events.send(&running);
    Ok(client)
}

fn begin(shared: &Shared, blueprint: Blueprint, boot: &Boot) -> Begin {
    Begin {
        state_dir: shared.state.path().to_owned(),
        image: shared.image.clone(),
        verified: shared.images.known(boot),
        knowledge: shared.backends.knowledge(),
        network: blueprint.network.description(),
        network_name: blueprint.network.name().to_owned(),
        takes: true,
        blueprint,
    }
}

async fn start(supervisor: Supervisor, purpose: &Purpose, context: &Context) -> Result<Connection> {
    let failed = |error| no_process(&supervisor, context, error);
    let (near, far) = UnixStream::pair().map_err(failed)?;
    let far = far.into_std().map_err(failed)?;
    far.set_nonblocking(false).map_err(failed)?;
    let program = supervisor.clone();
    let spawned = tokio::task::spawn_blocking(move || spawn(&program, OwnedFd::from(far))).await;
    spawned
        .map_err(|error| context.join(error))?
        .map_err(failed)?;
    let greeted = async {
        let connection = connect::greet(frame::split(near), purpose, context).await?;
        take(connection, context).await
    };
    greeted.await.map_err(|error| match error.kind() {
        // It ended without a word: it is no supervisor, or was killed.
        ErrorKind::GuestLost if error.console_tail().is_none() => error.with_remedy(
            "see that the program calls kata_sandbox::supervisor::serve; Supervisor::log keeps \
             what it says",
        ),
        _ => error,
    })
}

/// Says that the sandbox is known here. Once that is said nothing more is waited
/// for: whoever drops the start before has no sandbox, whoever does so later has.
async fn take(mut connection: Connection, context: &Context) -> Result<Connection> {
    if connection.welcome.to_be_taken {
        let said = match frame::document(&Call::Taken) {
            Ok(taken) => connection.ends.0.send(&taken, &[]).await,
            Err(error) => Err(error),
        };
        said.map_err(|error| context.io("the connection to its supervisor failed", error))?;
    }
    Ok(connection)
}

fn no_process(supervisor: &Supervisor, context: &Context, source: io::Error) -> Error {
    let program = supervisor.program.display();
    let missing = matches!(
        source.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
    );
    let error = context
        .io(format!("cannot start the supervisor {program}"), source)
        .during("start supervisor");
    if missing {
        return error.with_remedy(format!("install {program}, or say where it is"));
    }
    error
}
