//! Standard streams: vsock streams of their own, dialled before the call that
//! names them, so that no byte is lost. Each is named by the port on the
//! host's side.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use kata_hypervisor::{Error as VmError, GuestStream};
use kata_protocol::port;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;

use super::Engine;
use super::pull::Puller;
use crate::error::{Context, Result};
use crate::stdio::{PtySize, Reader, Stdin, StdioMode};

type Relay = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The streams of a process, and what names them.
#[derive(Default)]
pub(crate) struct Streams {
    /// Of standard input, output and error.
    pub(super) ports: [u32; 3],
    pub(crate) stdin: Option<Stdin>,
    pub(crate) stdout: Option<Reader>,
    pub(crate) stderr: Option<Reader>,
    /// What has to run beside the process.
    relays: Vec<Relay>,
    ends: Ends,
    /// Whether the three were taken, by who may start the process or not.
    taken: bool,
}

/// The ends of relays, each said by a sender that is dropped.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Of those that have to end before the process is waited for.
    pub(super) pulled: Vec<oneshot::Receiver<()>>,
    /// Of those that have to end before its end is told.
    pub(super) logged: Vec<oneshot::Receiver<()>>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams")
            .field("ports", &self.ports)
            .finish_non_exhaustive()
    }
}

impl Streams {
    /// Streams that another process relays.
    pub(crate) fn of(stdin: Option<Stdin>, stdout: Option<Reader>, stderr: Option<Reader>) -> Self {
        Self {
            stdin,
            stdout,
            stderr,
            ..Self::default()
        }
    }

    /// Runs what has to run beside the process, which has been started.
    pub(super) fn start_relays(&mut self, engine: &Engine) {
        for relay in self.relays.drain(..) {
            engine.tasks.spawn(relay);
        }
    }

    /// What tells that its relays have ended, once.
    pub(super) fn take_ends(&mut self) -> Ends {
        std::mem::take(&mut self.ends)
    }

    /// Takes the three, once, and leaves what has to run beside the process.
    pub(super) fn take(&mut self) -> Option<Self> {
        if std::mem::replace(&mut self.taken, true) {
            return None;
        }
        Some(Self {
            stdin: self.stdin.take(),
            stdout: self.stdout.take(),
            stderr: self.stderr.take(),
            ..Self::default()
        })
    }

    fn relay(&mut self, relay: impl Future<Output = ()> + Send + 'static) {
        self.relays.push(Box::pin(relay));
    }
}

/// The terminal's size, for a process that has one.
pub(super) fn terminal(mode: &StdioMode) -> Option<PtySize> {
    match mode {
        StdioMode::Pty(size) => Some(*size),
        _ => None,
    }
}

/// Opens the streams of a process that is about to be made.
pub(super) async fn open(
    engine: &Arc<Engine>,
    mode: &StdioMode,
    container: &str,
    exec_id: &str,
    context: &Context,
) -> Result<Streams> {
    let log = match mode {
        StdioMode::Log(path) => Some((
            open_log(path, context).await?,
            open_log(path, context).await?,
        )),
        _ => None,
    };
    let mut streams = if has_stdio_port(engine, context).await? {
        dial(engine, mode, context).await?
    } else {
        pull(engine, mode, container, exec_id)
    };
    match mode {
        StdioMode::Null => discard(&mut streams),
        StdioMode::Log(_) => {
            if let Some((out, err)) = log {
                streams.stdin = None;
                let from = [streams.stdout.take(), streams.stderr.take()];
                for (from, to) in from.into_iter().zip([out, err]) {
                    let Some(from) = from else { continue };
                    let (ended, end) = oneshot::channel();
                    streams.ends.logged.push(end);
                    streams.relay(async move {
                        append(from, to).await;
                        drop::<oneshot::Sender<()>>(ended);
                    });
                }
            }
        }
        StdioMode::Piped | StdioMode::Pty(_) => {}
    }
    Ok(streams)
}

/// Whether the agent takes streams. Ours does; a foreign one is tried once.
async fn has_stdio_port(engine: &Engine, context: &Context) -> Result<bool> {
    let found = engine.stdio_port.get_or_try_init(|| async {
        match engine.vm.dial(port::STDIO).await {
            Ok(_) => Ok(true),
            Err(VmError::Refused { .. }) => Ok(false),
            Err(error) => Err(context.vm(error)),
        }
    });
    found.await.copied()
}

async fn dial(engine: &Engine, mode: &StdioMode, context: &Context) -> Result<Streams> {
    let mut streams = Streams::default();
    let one = || async {
        engine
            .vm
            .dial(port::STDIO)
            .await
            .map_err(|error| context.vm(error))
    };
    match mode {
        StdioMode::Null => streams.ports = [port::NONE; 3],
        StdioMode::Piped => {
            let (stdin, stdout, stderr) = tokio::try_join!(one(), one(), one())?;
            streams.ports = [stdin.host_port(), stdout.host_port(), stderr.host_port()];
            streams.stdin = Some(Stdin::of_guest(stdin));
            streams.stdout = Some(Reader::of_guest(stdout));
            streams.stderr = Some(Reader::of_guest(stderr));
        }
        StdioMode::Pty(_) => {
            let (stdin, stdout) = tokio::try_join!(one(), one())?;
            streams.ports = [stdin.host_port(), stdout.host_port(), 0];
            streams.stdin = Some(Stdin::of_guest(stdin));
            streams.stdout = Some(Reader::of_guest(stdout));
        }
        StdioMode::Log(_) => {
            let (stdout, stderr): (GuestStream, GuestStream) = tokio::try_join!(one(), one())?;
            streams.ports = [0, stdout.host_port(), stderr.host_port()];
            streams.stdout = Some(Reader::of_guest(stdout));
            streams.stderr = Some(Reader::of_guest(stderr));
        }
    }
    Ok(streams)
}

/// Streams over calls, for an agent that has no others.
fn pull(engine: &Engine, mode: &StdioMode, container: &str, exec_id: &str) -> Streams {
    let puller = Puller::new(engine.agent.clone(), container, exec_id);
    let mut streams = Streams::default();
    let (stdin, relay) = puller.stdin();
    streams.stdin = Some(stdin);
    streams.relay(relay);
    let (stdout, relay, end) = puller.stdout();
    streams.stdout = Some(stdout);
    streams.relay(relay);
    streams.ends.pulled.push(end);
    if terminal(mode).is_none() {
        let (stderr, relay, end) = puller.stderr();
        streams.stderr = Some(stderr);
        streams.relay(relay);
        streams.ends.pulled.push(end);
    }
    streams
}

/// Reads away what nobody wants; a foreign agent knows no `/dev/null`.
fn discard(streams: &mut Streams) {
    streams.stdin = None;
    for mut reader in [streams.stdout.take(), streams.stderr.take()]
        .into_iter()
        .flatten()
    {
        streams.relay(async move {
            // Its end, however it comes, is the end of this.
            drop(tokio::io::copy(&mut reader, &mut tokio::io::sink()).await);
        });
    }
}

async fn open_log(path: &Path, context: &Context) -> Result<tokio::fs::File> {
    let mut options = tokio::fs::OpenOptions::new();
    let opened = options
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path)
        .await;
    opened.map_err(|e| context.io(format!("cannot open the log {}", path.display()), e))
}

/// Appends a stream to a log. When the log cannot be written, the stream is
/// read on: a full disk on the host must not hold up the workload.
async fn append(mut from: Reader, mut log: tokio::fs::File) {
    let copied = tokio::io::copy(&mut from, &mut log).await;
    if let Err(error) = copied {
        log::warn!(error:%; "cannot write a container's log; what follows is lost");
        drop(tokio::io::copy(&mut from, &mut tokio::io::sink()).await);
    }
    if let Err(error) = log.flush().await {
        log::warn!(error:%; "cannot write a container's log");
    }
}
