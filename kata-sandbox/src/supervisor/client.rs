//! A client of a supervisor: the far end of a sandbox's handles.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::calls::Calls;
use super::frame::{self, Frame, Receiver, Sender};
use super::message::{Call, Snapshot, Welcome, Word};
use super::mirror::Mirror;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{Event, EventHub};
use crate::exit::{Exit, SandboxExit};
use crate::home::{Operation, Packet, Reply, Request, SandboxFace};
use crate::registry::Reservation;
use crate::state::SandboxState;

/// How much longer than the agent a supervisor may take to answer.
const MARGIN: Duration = Duration::from_secs(20);

/// A connection to a supervisor. Dropping it lets go of the sandbox, which
/// goes on.
#[derive(Debug)]
pub(crate) struct Client {
    link: Arc<Link>,
    reading: AbortHandle,
    reservation: std::sync::Mutex<Option<Reservation>>,
}

/// What the tasks of a client share with it.
#[derive(Debug)]
struct Link {
    face: Arc<SandboxFace>,
    mirror: Mirror,
    call_timeout: Duration,
    calls: Calls<Link>,
    outbox: mpsc::UnboundedSender<Vec<u8>>,
    /// Whether the connection is ended from this side.
    leaving: AtomicBool,
}

impl Client {
    /// Takes over a connection on which the supervisor has said welcome.
    pub(super) fn new(
        (sender, receiver): (Sender, Receiver),
        welcome: Welcome,
        events: EventHub,
        reservation: Option<Reservation>,
    ) -> Self {
        let (outbox, letters) = mpsc::unbounded_channel();
        let Welcome {
            facts,
            call_timeout,
            now,
            ..
        } = welcome;
        let face = SandboxFace::new(facts, now.state, events);
        let link = Arc::new(Link {
            face,
            mirror: Mirror::default(),
            call_timeout,
            calls: Calls::default(),
            outbox,
            leaving: AtomicBool::new(false),
        });
        link.take_over(now);
        tokio::spawn(write(sender, letters));
        let reading = tokio::spawn(read(Arc::clone(&link), receiver)).abort_handle();
        Self {
            link,
            reading,
            reservation: reservation.into(),
        }
    }

    pub(crate) fn face(&self) -> &Arc<SandboxFace> {
        &self.link.face
    }

    pub(crate) fn mirror(&self) -> &Mirror {
        &self.link.mirror
    }

    pub(crate) fn call_timeout(&self) -> Duration {
        self.link.call_timeout
    }

    /// Has the supervisor perform an operation.
    pub(crate) async fn ask<O: Operation>(&self, operation: O) -> Result<O::Reply> {
        let limit = (self.link.call_timeout * 2)
            .saturating_add(MARGIN)
            .saturating_add(operation.patience());
        let mut asked = Asked::new(&self.link, operation)?;
        match tokio::time::timeout(limit, asked.answer()).await {
            Ok(answer) => answer,
            Err(_) => {
                let reason = format!("it did not answer within {} ms", limit.as_millis());
                let context = self.link.context(O::NAME);
                Err(context.error(ErrorKind::Timeout, reason))
            }
        }
    }

    /// Has it perform an operation that nobody waits for.
    pub(crate) fn ask_soon<O: Operation>(&self, operation: O) {
        self.link.post(operation.into());
    }

    /// Lets others have the id.
    pub(crate) fn free_id(&self) {
        let mut reservation = self
            .reservation
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *reservation = None;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.link.leaving.store(true, Ordering::Relaxed);
        // With the reader goes the last sender of letters; the writer ends when
        // it has delivered what there is.
        self.reading.abort();
    }
}

/// A question that was put; dropping it takes it back.
struct Asked<R: Reply> {
    link: Arc<Link>,
    number: u64,
    name: &'static str,
    answer: oneshot::Receiver<Result<R>>,
    answered: bool,
}

impl<R: Reply> Asked<R> {
    fn new<O: Operation<Reply = R>>(link: &Arc<Link>, operation: O) -> Result<Self> {
        let (sender, answer) = oneshot::channel();
        let number = link.calls.enter(Box::new(move |link: &Link, packet| {
            let packet = packet.unwrap_or_else(|| Err(link.gone(O::NAME)));
            let answer = packet.and_then(|packet: Packet| {
                R::unpack(packet, &link.mirror).map_err(|error| link.nonsense(O::NAME, error))
            });
            if let Err(Ok(unwanted)) = sender.send(answer) {
                link.undo(unwanted);
            }
        }));
        let number = number.ok_or_else(|| link.gone(O::NAME))?;
        let request = operation.into();
        let asked = Self {
            link: Arc::clone(link),
            number,
            name: O::NAME,
            answer,
            answered: false,
        };
        if let Err(error) = link.say(&Call::Ask { number, request }) {
            link.calls.take(number);
            let what = "the request cannot be sent";
            return Err(link.context(O::NAME).io(what, error));
        }
        Ok(asked)
    }

    async fn answer(&mut self) -> Result<R> {
        let answer = (&mut self.answer).await;
        self.answered = true;
        answer.unwrap_or_else(|_| Err(self.link.gone(self.name)))
    }
}

impl<R: Reply> Drop for Asked<R> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        self.answer.close();
        match self.answer.try_recv() {
            Ok(Ok(unwanted)) => self.link.undo(unwanted),
            Ok(Err(_)) => {}
            Err(_) => {
                let number = self.number;
                drop(self.link.say(&Call::Cancel { number })); // it may be gone
            }
        }
    }
}

impl Link {
    fn context(&self, operation: &'static str) -> Context {
        Context::new(operation, &*self.face.id)
    }

    /// The error of what a sandbox without its supervisor can no longer do.
    fn gone(&self, operation: &'static str) -> Error {
        let reason = match self.face.exit() {
            Some(exit) => exit.to_string(),
            None => "the connection has ended".to_owned(),
        };
        let error = self.context(operation).error(ErrorKind::GuestLost, reason);
        error.with_remedy("Runtime::recover removes what is left of it")
    }

    fn nonsense(&self, operation: &'static str, error: impl Into<crate::error::Source>) -> Error {
        let reason = "its answer makes no sense";
        self.context(operation)
            .error(ErrorKind::Protocol, reason)
            .caused_by(error)
    }

    fn say(&self, call: &Call) -> io::Result<()> {
        let letter = frame::document(call)?;
        self.outbox
            .send(letter)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Asks for something that nobody waits for.
    fn post(&self, request: Request) {
        let done = |_: &Self, _| {};
        if let Some(number) = self.calls.enter(Box::new(done)) {
            drop(self.say(&Call::Ask { number, request })); // it may be gone
        }
    }

    fn undo(&self, unwanted: impl Reply) {
        if let Some(undo) = unwanted.undo() {
            self.post(undo);
        }
    }

    fn take_over(&self, now: Snapshot) {
        self.mirror.replace(now.containers);
        self.face.mirror(now.state, now.exit);
    }

    fn hear(&self, frame: Frame) -> io::Result<()> {
        match frame.parse()? {
            Word::Answer { number, answer } => {
                if let Some(waiting) = self.calls.take(number) {
                    let packet = answer.map(|body| Packet {
                        body,
                        descriptors: frame.descriptors,
                        watch: None,
                    });
                    waiting(self, Some(packet.map_err(Error::from)));
                }
            }
            Word::Event {
                event,
                container,
                exit,
            } => {
                self.learn(&event, exit);
                if let Some(container) = container {
                    self.mirror.apply(*container);
                }
                self.face.events.send(&event);
            }
            Word::Ended {
                container,
                exec_id,
                exit,
            } => self.mirror.process_ended(container, exec_id, exit),
            Word::Lagged { missed, now } => {
                self.face.events.missed(&self.face.id, missed);
                self.take_over(now);
            }
        }
        Ok(())
    }

    fn learn(&self, event: &Event, exit: Option<SandboxExit>) {
        match event {
            Event::SandboxState { state, .. } => self.face.mirror(*state, exit),
            Event::ContainerDeleted { container, .. } => self.mirror.remove(container),
            _ => {}
        }
    }

    /// The supervisor is gone, and the sandbox with it.
    fn lose(&self, reason: &str) {
        if self.leaving.load(Ordering::Relaxed) {
            return;
        }
        let sandbox = &self.face.id;
        let was_known = self.face.state().has_ended();
        let reason = reason.to_owned();
        self.face.note_exit(SandboxExit::SupervisorLost { reason });
        let lost = self.mirror.lose();
        for waiting in self.calls.close() {
            waiting(self, None);
        }
        if was_known {
            return;
        }
        log::warn!(sandbox_id = sandbox.as_str(); "the supervisor is gone");
        for container in lost {
            self.face.events.send(&Event::ContainerExited {
                sandbox: sandbox.clone(),
                container,
                exit: Exit::Lost,
            });
        }
        self.face.mirror(SandboxState::Lost, None);
        self.face.events.send(&Event::SandboxState {
            sandbox: sandbox.clone(),
            state: SandboxState::Lost,
        });
    }
}

async fn read(link: Arc<Link>, mut receiver: Receiver) {
    let reason = loop {
        match receiver.next().await {
            Ok(Some(frame)) => {
                if let Err(error) = link.hear(frame) {
                    break format!("it said what makes no sense: {error}");
                }
            }
            Ok(None) => break "its process has ended".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    link.lose(&reason);
}

async fn write(mut sender: Sender, mut letters: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(letter) = letters.recv().await {
        // The reader hears of it, too.
        if sender.send(&letter, &[]).await.is_err() {
            return;
        }
    }
}
