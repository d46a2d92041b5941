//! Commands out, replies and events in.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::codec::{Lines, Message, command, parse};
use super::event::{Plugged, Seen};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    /// QEMU said no.
    #[error("{0}")]
    Refused(String),
    /// The connection ended: QEMU did, or spoke garbage.
    #[error("the connection to QEMU ended{}", .0.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    Closed(Option<String>),
    /// No answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
}

type Pending = HashMap<u64, oneshot::Sender<Result<Value, String>>>;

/// A line, and the descriptor that goes with it.
struct Line {
    bytes: Vec<u8>,
    descriptor: Option<OwnedFd>,
}

/// A connection to QEMU's monitor.
pub(crate) struct Qmp {
    /// Whole lines: a caller that gives up half-way leaves no half of one.
    lines: mpsc::UnboundedSender<Line>,
    next_id: AtomicU64,
    shared: Arc<Shared>,
    state: watch::Receiver<State>,
    /// Shared with the task that reads.
    publish: Arc<watch::Sender<State>>,
    tasks: [AbortHandle; 2],
}

impl std::fmt::Debug for Qmp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qmp")
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
}

#[derive(Clone, Debug, Default)]
struct State {
    greeting: Option<Arc<Value>>,
    seen: Seen,
    plugged: Plugged,
    closed: bool,
    why: Option<String>,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Qmp {
    /// Takes a connection over; nothing is sent yet. Must be called within a
    /// tokio runtime, on which the connection is then read.
    pub(crate) fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        let shared = Arc::new(Shared::default());
        let (publish, state) = watch::channel(State::default());
        let publish = Arc::new(publish);
        let (lines, to_write) = mpsc::unbounded_channel();
        let reading = tokio::spawn(read_all(reader, Arc::clone(&shared), Arc::clone(&publish)));
        let writing = tokio::spawn(write_all(writer, to_write));
        Self {
            lines,
            next_id: AtomicU64::new(1),
            shared,
            state,
            publish,
            tasks: [reading.abort_handle(), writing.abort_handle()],
        }
    }

    /// Waits for the greeting, leaves negotiation mode, and returns what the
    /// greeting said.
    pub(crate) async fn negotiate(&self, within: Duration) -> Result<Arc<Value>, QmpError> {
        let mut state = self.state.clone();
        let greeted = async {
            match state
                .wait_for(|state| state.greeting.is_some() || state.closed)
                .await
            {
                Ok(state) => state
                    .greeting
                    .clone()
                    .ok_or_else(|| QmpError::Closed(state.why.clone())),
                Err(_) => Err(QmpError::Closed(None)),
            }
        };
        let greeting = timeout(within, greeted)
            .await
            .map_err(|_| QmpError::Timeout(within))??;
        self.execute("qmp_capabilities", None, within).await?;
        Ok(greeting)
    }

    /// Executes a command and waits for its answer.
    pub(crate) async fn execute(
        &self,
        name: &str,
        arguments: Option<Value>,
        within: Duration,
    ) -> Result<Value, QmpError> {
        self.exchange(name, arguments, None, within).await
    }

    /// Executes a command that hands QEMU a descriptor.
    pub(crate) async fn hand(
        &self,
        name: &str,
        arguments: Option<Value>,
        descriptor: OwnedFd,
        within: Duration,
    ) -> Result<Value, QmpError> {
        self.exchange(name, arguments, Some(descriptor), within)
            .await
    }

    async fn exchange(
        &self,
        name: &str,
        arguments: Option<Value>,
        descriptor: Option<OwnedFd>,
        within: Duration,
    ) -> Result<Value, QmpError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let _forget = Forget {
            shared: &self.shared,
            id,
        };
        let (reply, answered) = oneshot::channel();
        self.shared.pending().insert(id, reply);
        if self.state.borrow().closed {
            return Err(self.closed_error());
        }
        let exchange = async {
            let line = Line {
                bytes: command(id, name, arguments),
                descriptor,
            };
            if self.lines.send(line).is_err() {
                return Err(self.closed_error());
            }
            match answered.await {
                Ok(answer) => answer.map_err(QmpError::Refused),
                Err(_) => Err(self.closed_error()),
            }
        };
        timeout(within, exchange)
            .await
            .map_err(|_| QmpError::Timeout(within))?
    }

    /// What events have said about the machine's end.
    pub(crate) fn seen(&self) -> Seen {
        self.state.borrow().seen
    }

    /// Waits until what events have said of devices answers `question`.
    pub(crate) async fn until<T>(
        &self,
        within: Duration,
        mut question: impl FnMut(&Plugged) -> Option<T>,
    ) -> Result<T, QmpError> {
        let mut state = self.state.clone();
        let mut answer = None;
        let answered = state.wait_for(|state| {
            answer = question(&state.plugged);
            answer.is_some() || state.closed
        });
        // The guard's lock is not held while the answer is looked at.
        let waited = timeout(within, answered).await.map(drop);
        waited.map_err(|_| QmpError::Timeout(within))?;
        answer.ok_or_else(|| self.closed_error())
    }

    /// What events have said about devices.
    pub(crate) fn plugged(&self) -> Plugged {
        self.state.borrow().plugged.clone()
    }

    /// Forgets what became of a device, before there is another of its name.
    pub(crate) fn forget_device(&self, id: &str) {
        self.publish.send_if_modified(|state| {
            state.plugged.forget(id);
            false
        });
    }

    /// Waits until the connection has ended, so that no event is still to come.
    pub(crate) async fn closed(&self) {
        let _ = self.state.clone().wait_for(|state| state.closed).await;
    }

    fn closed_error(&self) -> QmpError {
        QmpError::Closed(self.state.borrow().why.clone())
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Takes a command out of the table however its waiting ends.
struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.pending().remove(&self.id);
    }
}

/// Writes until the connection ends or nobody can send any more.
async fn write_all(writer: OwnedWriteHalf, mut lines: mpsc::UnboundedReceiver<Line>) {
    while let Some(line) = lines.recv().await {
        if write(writer.as_ref(), &line).await.is_err() {
            return;
        }
    }
}

/// Writes a line; its descriptor goes with the first bytes.
async fn write(socket: &UnixStream, line: &Line) -> io::Result<()> {
    let mut descriptor = line.descriptor.as_ref().map(OwnedFd::as_fd);
    let mut rest = &line.bytes[..];
    while !rest.is_empty() {
        let transmit = || transmit(socket, rest, descriptor);
        let sent = socket.async_io(Interest::WRITABLE, transmit).await?;
        descriptor = None;
        rest = &rest[sent..];
    }
    Ok(())
}

fn transmit(
    socket: &UnixStream,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.as_slice();
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let bytes = [IoSlice::new(bytes)];
    let flags = SendFlags::NOSIGNAL;
    Ok(sendmsg(socket, &bytes, &mut ancillary, flags)?)
}

/// Reads until the connection ends, then tells everybody who waits.
async fn read_all(
    mut reader: impl AsyncRead + Unpin,
    shared: Arc<Shared>,
    publish: Arc<watch::Sender<State>>,
) {
    let why = read_messages(&mut reader, &shared, &publish).await.err();
    publish.send_modify(|state| {
        state.closed = true;
        state.why = why;
    });
    // Dropping the senders wakes the callers.
    shared.pending().clear();
}

async fn read_messages(
    reader: &mut (impl AsyncRead + Unpin),
    shared: &Shared,
    publish: &watch::Sender<State>,
) -> Result<(), String> {
    let mut lines = Lines::default();
    let mut buffer = vec![0; 4096];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(n) => lines.push(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
        while let Some(line) = lines
            .next()
            .map_err(|_| "it sent an endless line".to_owned())?
        {
            if line.is_empty() {
                continue;
            }
            let message = parse(&line).map_err(|error| format!("it sent garbage, {error}"))?;
            dispatch(message, shared, publish);
        }
    }
}

fn dispatch(message: Message, shared: &Shared, publish: &watch::Sender<State>) {
    match message {
        Message::Greeting(greeting) => {
            publish.send_modify(|state| state.greeting = Some(Arc::new(greeting)));
        }
        Message::Event(event) => publish.send_modify(|state| {
            state.seen.note(&event);
            state.plugged.note(event);
        }),
        Message::Reply { id, result } => {
            let waiting = id.and_then(|id| shared.pending().remove(&id));
            match waiting {
                // The caller may have given up between the two.
                Some(waiting) => drop(waiting.send(result)),
                None => log::debug!(id = id; "QEMU answered a command that nobody waits for"),
            }
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
