//! Reaching a supervisor that runs.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::net::UnixStream;

use super::client::Client;
use super::frame::{self, Receiver, Sender};
use super::message::{Greeting, OLDEST, Purpose, Reception, VERSION, Welcome};
use super::socket;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::journal::Occupant;
use crate::runtime::Shared;
use crate::sandbox::SandboxStatus;

/// How long a supervisor that runs may take to say welcome.
const GREETING: Duration = Duration::from_secs(30);

/// A connection on which the supervisor has said welcome.
pub(super) struct Connection {
    pub(super) ends: (Sender, Receiver),
    pub(super) welcome: Welcome,
}

/// What there is of a sandbox that another process may have.
#[derive(Debug)]
pub(crate) enum Found {
    /// Its supervisor answers.
    Live(SandboxStatus),
    /// Its process is gone.
    Dead,
    /// It is in a process that is no supervisor, or not one yet.
    Elsewhere,
}

/// Attaches to the sandbox of that id.
pub(crate) async fn attach(shared: &Arc<Shared>, id: &str) -> Result<Client> {
    let context = Context::new("attach to sandbox", crate::id::shown(id));
    crate::id::check(id, &context)?;
    // One that is taken is another's attempt; the connections do not mind.
    let reservation = shared.registry.reserve(id);
    let Connection { ends, welcome } = connect(shared, id, &context).await?;
    let events = shared.events.clone();
    Ok(Client::new(ends, welcome, events, reservation))
}

/// Looks what there is of the sandbox of that id, and keeps no connection.
pub(crate) async fn look(shared: &Arc<Shared>, id: &str) -> Result<Found> {
    let context = Context::new("look at sandbox", crate::id::shown(id));
    match connect(shared, id, &context).await {
        Ok(Connection { welcome, .. }) => Ok(Found::Live(SandboxStatus {
            id: welcome.facts.id,
            state: welcome.now.state,
            created: welcome.facts.created,
            labels: welcome.facts.labels,
        })),
        Err(error) => match error.kind() {
            ErrorKind::GuestLost => Ok(Found::Dead),
            ErrorKind::NotFound | ErrorKind::InvalidState => Ok(Found::Elsewhere),
            _ => Err(error),
        },
    }
}

async fn connect(shared: &Arc<Shared>, id: &str, context: &Context) -> Result<Connection> {
    let directory = shared.state.directory(id);
    let path = directory.join(socket::NAME);
    let connecting = async {
        let socket = match UnixStream::connect(&path).await {
            Ok(socket) => socket,
            Err(error) => return Err(not_there(shared, id, &path, error, context).await),
        };
        let trusted = socket::is_trusted(&socket)
            .map_err(|error| context.io("cannot tell whose process it is", error))?;
        if !trusted {
            let reason = format!("{} is another user's", path.display());
            return Err(context.error(ErrorKind::Denied, reason));
        }
        greet(frame::split(socket), &Purpose::default(), context).await
    };
    match tokio::time::timeout(GREETING, connecting).await {
        Ok(connected) => connected,
        Err(_) => {
            let limit = GREETING.as_millis();
            let reason = format!("its supervisor did not answer within {limit} ms");
            Err(context.error(ErrorKind::Timeout, reason))
        }
    }
}

/// Why there is nobody to connect to.
async fn not_there(
    shared: &Arc<Shared>,
    id: &str,
    path: &Path,
    source: io::Error,
    context: &Context,
) -> Error {
    let absent = matches!(
        source.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    );
    if !absent {
        let what = format!("cannot connect to {}", path.display());
        return context.io(what, source);
    }
    let (state, own) = (shared.state.clone(), id.to_owned());
    let occupant = tokio::task::spawn_blocking(move || state.occupant(&own)).await;
    match occupant {
        Err(error) => context.join(error),
        Ok(Occupant::Nobody) => {
            let reason = "there is no sandbox of that id in the state directory";
            context.error(ErrorKind::NotFound, reason)
        }
        Ok(Occupant::Dead) => {
            let error = context.error(ErrorKind::GuestLost, "its process is gone");
            error.with_remedy("Runtime::recover removes what is left of it")
        }
        Ok(Occupant::Process(pid)) => {
            let by = pid.map_or_else(String::new, |pid| format!(" {pid}"));
            let reason = format!("it lives in process{by}, which is no supervisor or not ready");
            context.error(ErrorKind::InvalidState, reason)
        }
    }
}

/// Says what is wanted, and waits to be welcome.
pub(super) async fn greet(
    (mut sender, mut receiver): (Sender, Receiver),
    purpose: &Purpose,
    context: &Context,
) -> Result<Connection> {
    let greeting = Greeting {
        protocol: VERSION,
        rest: serde_json::to_value(purpose).unwrap_or(Value::Null),
    };
    let broken = |error: io::Error| {
        let error = match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset => {
                let reason = "its supervisor ended before it was ready";
                context.error(ErrorKind::GuestLost, reason).caused_by(error)
            }
            io::ErrorKind::InvalidData => {
                let reason = "its supervisor says what makes no sense";
                context.error(ErrorKind::Protocol, reason).caused_by(error)
            }
            _ => context.io("the connection to its supervisor failed", error),
        };
        error.during("start supervisor")
    };
    let greeting = frame::document(&greeting).map_err(broken)?;
    sender.send(&greeting, &[]).await.map_err(broken)?;
    let answer = receiver.next().await.map_err(broken)?;
    let answer = answer.ok_or_else(|| broken(io::ErrorKind::UnexpectedEof.into()))?;
    match answer.parse().map_err(broken)? {
        Reception::Welcome(welcome) if (OLDEST..=VERSION).contains(&welcome.protocol) => {
            Ok(Connection {
                ends: (sender, receiver),
                welcome: *welcome,
            })
        }
        Reception::Welcome(welcome) => Err(other_version(welcome.protocol, context)),
        Reception::Refused { fault, .. } => Err(fault.into()),
    }
}

fn other_version(theirs: u32, context: &Context) -> Error {
    let reason = format!(
        "its supervisor speaks version {theirs} of the protocol, and this program {VERSION}"
    );
    let error = context.error(ErrorKind::Unsupported, reason);
    error.with_remedy("stop the sandbox with the program that started it")
}
