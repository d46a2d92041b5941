//! What a supervisor's process does.

use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::frame::{self, Receiver, Sender};
use super::message::{Begin, Call, Greeting, OLDEST, Purpose, Reception, VERSION, Welcome};
use super::session::{Ending, Session, snapshot};
use super::{network, socket};
use crate::backends::Knowledge;
use crate::builder::settle_image;
use crate::engine::{self, Engine};
use crate::error::{Context, Error, ErrorKind, Fault, Result};
use crate::home::Home;
use crate::image::Fingerprints;
use crate::runtime::{Runtime, RuntimeBuilder};

/// How long a client may take with its greeting.
const GREETING: Duration = Duration::from_secs(10);
/// How long clients may take to hear the last words.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long nobody is let in after somebody could not be.
const BREATHER: Duration = Duration::from_millis(100);
/// What is said of a program that was started by hand.
const REMEDY: &str = "it is started by a runtime, as RuntimeBuilder::supervisor says";

/// Runs this process as a supervisor, until its sandbox has ended for good.
///
/// To be called early in `main` of a program that
/// [`Supervisor`](crate::supervisor::Supervisor) names, before there are
/// threads or open files that matter; it makes a tokio runtime of its own.
/// `configure` adds what cannot be told over a socket, such as hypervisors and
/// networks of the program's own; state directory, guest image and everything
/// about the sandbox come from the runtime that asked for it.
///
/// ```no_run
/// fn main() -> kata_sandbox::Result<()> {
///     kata_sandbox::supervisor::serve(|runtime| runtime)
/// }
/// ```
///
/// # Errors
/// Why it could not serve, or the sandbox not start; the runtime that asked for
/// it has been told the same.
pub fn serve(configure: impl FnOnce(RuntimeBuilder) -> RuntimeBuilder) -> Result<()> {
    let context = Context::new("run supervisor", "this process");
    let socket = take_socket(&context)?;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| context.io("cannot make a tokio runtime", error))?;
    let served = tokio.block_on(supervise(socket, configure, &context));
    // A blocking task that hangs must not keep the process.
    tokio.shutdown_timeout(LAST_WORDS);
    served
}

/// Takes the socket that is this process's standard input, and leaves
/// `/dev/null` in its place.
fn take_socket(context: &Context) -> Result<StdStream> {
    let failed = |error: rustix::io::Errno| context.io("cannot take over stdin", error.into());
    let stdin = rustix::stdio::stdin();
    if rustix::net::sockopt::socket_type(stdin).is_err() {
        let reason = "its standard input is no socket";
        return Err(context.invalid(reason).with_remedy(REMEDY));
    }
    let socket = rustix::io::fcntl_dupfd_cloexec(stdin, 3).map_err(failed)?;
    let null = std::fs::File::open("/dev/null")
        .map_err(|error| context.io("cannot open /dev/null", error))?;
    rustix::stdio::dup2_stdin(&null).map_err(failed)?;
    Ok(socket.into())
}

async fn supervise(
    socket: StdStream,
    configure: impl FnOnce(RuntimeBuilder) -> RuntimeBuilder,
    context: &Context,
) -> Result<()> {
    let socket = socket
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(socket))
        .map_err(|error| context.io("cannot use its standard input", error))?;
    let (mut sender, mut receiver) = frame::split(socket);
    let purpose = greeting(&mut receiver, context).await;
    let begin = purpose.and_then(|purpose| {
        let begin = purpose.begin;
        begin.ok_or_else(|| context.invalid("it was not told what to begin"))
    });
    let started = match begin {
        Ok(begin) => start(*begin, configure, &mut receiver).await,
        Err(error) => Err(error),
    };
    match started {
        Ok(started) => {
            let _home = Home::here(Arc::clone(&started.engine));
            attend(&started, (sender, receiver)).await;
            Ok(())
        }
        Err(error) => {
            let sent = refuse(&mut sender, &error).await;
            if let Err(unsent) = sent {
                log::debug!(error:% = unsent; "nobody hears why the sandbox did not start");
            }
            Err(error)
        }
    }
}

/// Hears what a client wants.
async fn greeting(receiver: &mut Receiver, context: &Context) -> Result<Purpose> {
    let heard = tokio::time::timeout(GREETING, receiver.next()).await;
    let heard = heard.map_err(|_| context.error(ErrorKind::Timeout, "the client says nothing"))?;
    let frame = heard
        .and_then(|frame| frame.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()))
        .map_err(|error| context.io("the client's greeting cannot be read", error))?;
    let nonsense = |error: io::Error| {
        let reason = "the client's greeting makes no sense";
        context.error(ErrorKind::Protocol, reason).caused_by(error)
    };
    let Greeting { protocol, rest } = frame.parse().map_err(nonsense)?;
    if !(OLDEST..=VERSION).contains(&protocol) {
        let reason = format!(
            "the client speaks version {protocol} of the protocol, and the supervisor {OLDEST} to \
             {VERSION}"
        );
        let error = context.error(ErrorKind::Unsupported, reason);
        return Err(error.with_remedy("stop the sandbox with the program that started it"));
    }
    serde_json::from_value(rest).map_err(|error| nonsense(error.into()))
}

async fn refuse(sender: &mut Sender, error: &Error) -> io::Result<()> {
    let refusal = Reception::Refused {
        protocol: VERSION,
        fault: Fault::from(error),
    };
    sender.send(&frame::document(&refusal)?, &[]).await
}

/// What was found out, and clients need not find out again.
#[derive(Clone)]
struct Found {
    /// By which the sandbox's image is known.
    verified: Option<Fingerprints>,
    /// Of the hypervisors.
    knowledge: Knowledge,
}

/// A sandbox that runs, and where clients find it.
struct Started {
    engine: Arc<Engine>,
    listener: UnixListener,
    found: Found,
    /// Whether the client says when it has taken it.
    takes: bool,
}

/// Starts the sandbox, unless the client goes before it runs.
async fn start(
    begin: Begin,
    configure: impl FnOnce(RuntimeBuilder) -> RuntimeBuilder,
    client: &mut Receiver,
) -> Result<Started> {
    let context = Context::new("start sandbox", &*begin.blueprint.id);
    let shared = configure(Runtime::builder())
        .state_dir(&begin.state_dir)
        .image(begin.image.clone())
        .shared(&context)?;
    let network = network::restore(&shared, &begin, &context)?;
    let boot = settle_image(&shared, &context)?;
    if let Some(verified) = begin.verified {
        shared.images.learn(&boot, verified);
    }
    shared.backends.recall(&begin.knowledge);
    let mut blueprint = begin.blueprint;
    blueprint.network = network;
    let id = blueprint.id.clone();
    let image = boot.clone();
    let engine = tokio::select! {
        biased;
        engine = engine::boot(&shared, blueprint, boot) => engine?,
        _ = client.next() => {
            let reason = "the client has gone";
            return Err(context.error(ErrorKind::Cancelled, reason));
        }
    };
    engine.reach("sandbox runs");
    let path = shared.state.directory(&id).join(socket::NAME);
    let listener = socket::listen(&path).map_err(|error| {
        engine.abandon();
        context.io(format!("cannot listen on {}", path.display()), error)
    })?;
    engine.reach("socket bound");
    Ok(Started {
        found: Found {
            verified: shared.images.known(&image),
            knowledge: shared.backends.knowledge(),
        },
        takes: begin.takes,
        engine,
        listener,
    })
}

/// A client that wants to be served.
enum Visitor {
    /// The one that had the sandbox started, and whether it says so when it has
    /// taken it.
    First((Sender, Receiver), bool),
    /// One that has connected.
    Other(UnixStream),
}

/// Serves clients until the sandbox has ended for good.
async fn attend(started: &Started, first: (Sender, Receiver)) {
    let Started {
        engine,
        listener,
        found,
        takes,
    } = started;
    let ending = watch::Sender::new(Ending::NotYet);
    let closing = watch::Sender::new(false);
    let mut sessions = JoinSet::new();
    let serve = |visitor| {
        let (engine, found) = (Arc::clone(engine), found.clone());
        let (ending, closing) = (ending.clone(), closing.subscribe());
        async move {
            if let Err(error) = session(&engine, visitor, found, &ending, closing).await {
                log::debug!(sandbox_id = engine.id(), error:%; "a client was lost");
            }
        }
    };
    sessions.spawn(serve(Visitor::First(first, *takes)));
    let mut ended = ending.subscribe();
    loop {
        match *ended.borrow_and_update() {
            Ending::Deleted => break,
            Ending::Stopped if sessions.is_empty() => break,
            _ => {}
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    sessions.spawn(serve(Visitor::Other(socket)));
                }
                // Out of descriptors, for one: later there may be some.
                Err(error) => {
                    log::warn!(sandbox_id = engine.id(), error:%; "a client is refused");
                    tokio::time::sleep(BREATHER).await;
                }
            },
            Some(_) = sessions.join_next() => {}
            Ok(()) = ended.changed() => {}
        }
    }
    closing.send_replace(true);
    let all = async { while sessions.join_next().await.is_some() {} };
    drop(tokio::time::timeout(LAST_WORDS, all).await);
    engine.tell_all_ends().await;
    drop(engine.free_id().await); // what cannot be removed is left to `recover`
}

/// Waits until the client says that it has the sandbox.
async fn taken(client: &mut Receiver) -> io::Result<()> {
    let frame = client.next().await?;
    let frame = frame.ok_or(io::ErrorKind::UnexpectedEof)?;
    match frame.parse()? {
        Call::Taken => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Serves one client.
async fn session(
    engine: &Arc<Engine>,
    visitor: Visitor,
    found: Found,
    ending: &watch::Sender<Ending>,
    closing: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut to_be_taken = false;
    let (mut sender, mut receiver) = match visitor {
        Visitor::First(ends, takes) => {
            to_be_taken = takes;
            ends
        }
        Visitor::Other(socket) => {
            let trusted = socket::is_trusted(&socket)?;
            let (mut sender, mut receiver) = frame::split(socket);
            let context = Context::new("attach to sandbox", engine.id());
            let heard = if trusted {
                greeting(&mut receiver, &context).await
            } else {
                Err(context.error(ErrorKind::Denied, "it is another user's"))
            };
            if let Err(error) = heard {
                return refuse(&mut sender, &error).await;
            }
            (sender, receiver)
        }
    };
    // Listens before it looks: what happens in between is told twice at worst.
    let events = engine.face().events.listen(None);
    let welcome = Reception::Welcome(Box::new(Welcome {
        protocol: VERSION,
        facts: engine.face().facts(),
        call_timeout: engine.call_timeout(),
        now: snapshot(engine),
        verified: found.verified,
        knowledge: found.knowledge,
        to_be_taken,
    }));
    let welcomed = sender.send(&frame::document(&welcome)?, &[]).await;
    if to_be_taken && let Err(error) = taken(&mut receiver).await {
        // Nobody knows of it: as if it had not been started.
        if let Err(error) = engine.stop(Duration::ZERO).await {
            log::warn!(sandbox_id = engine.id(), error:%; "not all of it could be undone");
        }
        ending.send_replace(Ending::Deleted);
        return Err(error);
    }
    welcomed?;
    let session = Session::new(Arc::clone(engine), (sender, receiver), events);
    session.run(ending, closing).await
}
