//! A client, as its supervisor sees it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use super::frame::{self, Frame, Receiver, Sender};
use super::message::{Call, Description, Snapshot, Word};
use crate::engine::Engine;
use crate::error::{Context, Error, ErrorKind, Fault, Result};
use crate::event::{Event, Events};
use crate::exit::Exit;
use crate::home::{ContainerKey, Packet, Request};

/// How long a client may take to read what it is told.
const READING: Duration = Duration::from_secs(60);
/// Questions of one client that are looked into at once.
const MOST_AT_ONCE: usize = 1024;

/// A process that has ended.
type Ended = (ContainerKey, String, Exit);

/// What a session is begun with.
pub(super) struct Session {
    engine: Arc<Engine>,
    sender: Sender,
    receiver: Receiver,
    events: Events,
    jobs: JoinSet<Result<Packet>>,
    /// By task, so that one that was cancelled is answered too.
    numbers: HashMap<Id, Job>,
    cancels: HashMap<u64, AbortHandle>,
    /// Watches over processes for this client.
    watches: JoinSet<()>,
    ended: (mpsc::UnboundedSender<Ended>, mpsc::UnboundedReceiver<Ended>),
}

struct Job {
    number: u64,
    /// What it leads to when it is done.
    ending: Ending,
}

/// Whether the sandbox is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    NotYet,
    /// It was stopped: it is done with when its clients have gone.
    Stopped,
    /// It was deleted.
    Deleted,
}

impl Ending {
    fn of(request: &Request) -> Self {
        match request {
            Request::Stop(_) => Self::Stopped,
            Request::DeleteSandbox(_) => Self::Deleted,
            _ => Self::NotYet,
        }
    }
}

/// All of a sandbox that changes, as it is now.
pub(super) fn snapshot(engine: &Engine) -> Snapshot {
    let face = engine.face();
    let records = engine.containers().all();
    Snapshot {
        state: face.state(),
        exit: face.exit(),
        containers: records
            .iter()
            .map(|record| Description::of(record.face()))
            .collect(),
    }
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    // Nobody left to say so is as good.
    drop(closing.wait_for(|closing| *closing).await);
}

impl Session {
    /// `events` are those since before the client was told how things are.
    pub(super) fn new(
        engine: Arc<Engine>,
        (sender, receiver): (Sender, Receiver),
        events: Events,
    ) -> Self {
        Self {
            engine,
            sender,
            receiver,
            events,
            jobs: JoinSet::new(),
            numbers: HashMap::new(),
            cancels: HashMap::new(),
            watches: JoinSet::new(),
            ended: mpsc::unbounded_channel(),
        }
    }

    /// Serves the client until it goes, or all of this ends. `ending` is told
    /// when the client has had the sandbox end.
    pub(super) async fn run(
        mut self,
        ending: &watch::Sender<Ending>,
        mut closing: watch::Receiver<bool>,
    ) -> io::Result<()> {
        loop {
            tokio::select! {
                biased;
                Some(event) = self.events.next() => self.tell(event).await?,
                Some(ended) = self.ended.1.recv() => self.tell_ended(ended).await?,
                Some(done) = self.jobs.join_next_with_id() => self.answer(done, ending).await?,
                frame = self.receiver.next() => match frame? {
                    Some(frame) => self.hear(&frame).await?,
                    None => return Ok(()),
                },
                () = closed(&mut closing) => return self.finish().await,
            }
        }
    }

    /// Tells what there still is to tell.
    async fn finish(&mut self) -> io::Result<()> {
        self.tell_events().await?;
        while let Ok(ended) = self.ended.1.try_recv() {
            self.tell_ended(ended).await?;
        }
        Ok(())
    }

    async fn hear(&mut self, frame: &Frame) -> io::Result<()> {
        match frame.parse()? {
            Call::Ask { number, .. } if self.jobs.len() >= MOST_AT_ONCE => {
                let context = Context::new("ask supervisor of", self.engine.id());
                let reason = format!("{MOST_AT_ONCE} requests are under way");
                let error = context.error(ErrorKind::Resource, reason);
                self.refuse(number, &error).await
            }
            Call::Ask { number, request } => {
                let ending = Ending::of(&request);
                let engine = Arc::clone(&self.engine);
                let job = self
                    .jobs
                    .spawn(async move { request.perform(&engine).await });
                self.numbers.insert(job.id(), Job { number, ending });
                self.cancels.insert(number, job);
                Ok(())
            }
            Call::Cancel { number } => {
                if let Some(job) = self.cancels.get(&number) {
                    job.abort();
                }
                Ok(())
            }
            Call::Taken => Ok(()), // once is enough
        }
    }

    async fn answer(
        &mut self,
        done: Result<(Id, Result<Packet>), JoinError>,
        ending: &watch::Sender<Ending>,
    ) -> io::Result<()> {
        let (id, outcome) = match done {
            Ok(done) => done,
            Err(error) => {
                let context = Context::new("ask supervisor of", self.engine.id());
                (error.id(), Err(context.join(error)))
            }
        };
        let Some(job) = self.numbers.remove(&id) else {
            return Ok(());
        };
        let number = job.number;
        self.cancels.remove(&number);
        // What led to the answer comes before it.
        self.tell_events().await?;
        match outcome {
            Ok(packet) => self.send_packet(number, packet).await?,
            Err(error) => self.refuse(number, &error).await?,
        }
        if self.engine.state().has_ended() {
            ending.send_if_modified(|now| {
                let later = job.ending > *now;
                *now = job.ending.max(*now);
                later
            });
        }
        Ok(())
    }

    async fn send_packet(&mut self, number: u64, packet: Packet) -> io::Result<()> {
        let Packet {
            body,
            descriptors,
            watch,
        } = packet;
        let answer = Word::Answer {
            number,
            answer: Ok(body),
        };
        let body = match frame::document(&answer) {
            Ok(body) => body,
            Err(error) => {
                let context = Context::new("ask supervisor of", self.engine.id());
                let error = context.io("the answer cannot be sent", error);
                return self.refuse(number, &error).await;
            }
        };
        let sent = tokio::time::timeout(READING, self.sender.send(&body, &descriptors)).await;
        sent.map_err(|_| io::ErrorKind::TimedOut)??;
        if let Some((container, process)) = watch {
            let tell = self.ended.0.clone();
            self.watches.spawn(async move {
                let exit = process.exited().await;
                let ended = (container, process.exec_id().to_owned(), exit);
                drop(tell.send(ended)); // the client may have gone
            });
        }
        while self.watches.try_join_next().is_some() {}
        Ok(())
    }

    async fn refuse(&mut self, number: u64, error: &Error) -> io::Result<()> {
        let answer = Err(Fault::from(error));
        self.say(&Word::Answer { number, answer }).await
    }

    /// Tells the events that there are.
    async fn tell_events(&mut self) -> io::Result<()> {
        while let Some(event) = self.events.take() {
            self.tell(event).await?;
        }
        Ok(())
    }

    async fn tell(&mut self, event: Event) -> io::Result<()> {
        let word = match event {
            Event::Lagged { missed } => Word::Lagged {
                missed,
                now: snapshot(&self.engine),
            },
            event => {
                let record = event
                    .container()
                    .and_then(|id| self.engine.containers().get(id));
                let container = record.map(|record| Box::new(Description::of(record.face())));
                Word::Event {
                    event,
                    container,
                    exit: self.engine.face().exit(),
                }
            }
        };
        self.say(&word).await
    }

    async fn tell_ended(&mut self, (container, exec_id, exit): Ended) -> io::Result<()> {
        let word = Word::Ended {
            container,
            exec_id,
            exit,
        };
        self.say(&word).await
    }

    async fn say(&mut self, word: &Word) -> io::Result<()> {
        let body = frame::document(word)?;
        let sent = tokio::time::timeout(READING, self.sender.send(&body, &[])).await;
        sent.map_err(|_| io::ErrorKind::TimedOut)?
    }
}
