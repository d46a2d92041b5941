//! A connection that carries calls, and how it ends with the last answer sent.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kata_protocol::ttrpc::{self, Code, Handler, Status};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::task::spawn_local;

use crate::service::Agent;
use crate::transport::{Stream, linger};

/// How long the host may take to read the last answers when the agent goes
/// down.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves calls on `stream` until the peer closes it or the agent goes down; in
/// the latter case the answers given so far are with the peer on return.
pub(crate) async fn serve(agent: Rc<Agent>, stream: Stream) {
    let progress = Rc::new(Progress::default());
    let handler: Rc<dyn Handler> = Rc::new(Counting {
        agent: Rc::clone(&agent),
        progress: Rc::clone(&progress),
    });
    if let Err(error) = linger(&stream, FAREWELL) {
        log::warn!(error:% = error; "a connection will not linger");
    }
    let wire = Wire {
        stream,
        progress: Rc::clone(&progress),
        live: Live(Rc::clone(&progress)),
    };
    tokio::select! {
        result = ttrpc::serve(wire, handler) => {
            if let Err(error) = result {
                log::warn!(error:% = error; "a connection failed");
            }
            return;
        }
        () = farewell(&agent, &progress) => {}
    }
    // The tasks of the connection are being dropped; the last of them closes it.
    if tokio::time::timeout(FAREWELL, progress.closed())
        .await
        .is_err()
    {
        log::warn!("a connection did not close in time");
    }
}

async fn farewell(agent: &Agent, progress: &Progress) {
    agent.ending.asked().await;
    if tokio::time::timeout(FAREWELL, progress.all_sent())
        .await
        .is_err()
    {
        log::warn!("the host did not take the last answers in time");
    }
}

/// Calls that wait for something that may never come. They are given up when
/// their connection is lost; every other call is carried to its end, so that
/// nothing is half done.
const WAITING: [&str; 5] = [
    "WaitProcess",
    "ReadStdout",
    "ReadStderr",
    "WriteStdin",
    "GetOOMEvent",
];

/// Calls that are given up when the caller's time is up, and know how to leave
/// things then: a container that did not start in time has stopped.
const LIMITED: [&str; 2] = ["StartContainer", "ListProcesses"];

/// Answers that are owed and answers sent.
#[derive(Debug, Default)]
struct Progress {
    owed: Cell<u64>,
    sent: Cell<u64>,
    closed: Cell<bool>,
    changed: Notify,
}

impl Progress {
    fn count(&self, counter: &Cell<u64>) {
        counter.set(counter.get() + 1);
        self.changed.notify_waiters();
    }

    async fn all_sent(&self) {
        while self.sent.get() < self.owed.get() {
            self.changed.notified().await;
        }
    }

    async fn closed(&self) {
        while !self.closed.get() {
            self.changed.notified().await;
        }
    }
}

/// Counts the answers that the agent owes.
struct Counting {
    agent: Rc<Agent>,
    progress: Rc<Progress>,
}

#[async_trait(?Send)]
impl Handler for Counting {
    async fn handle(&self, service: &str, method: &str, request: Bytes) -> Result<Vec<u8>, Status> {
        self.handle_within(service, method, request, None).await
    }

    async fn handle_within(
        &self,
        service: &str,
        method: &str,
        request: Bytes,
        limit: Option<Duration>,
    ) -> Result<Vec<u8>, Status> {
        if WAITING.contains(&method) {
            let answer = self.agent.handle(service, method, request).await;
            self.progress.count(&self.progress.owed);
            return answer;
        }
        self.progress.count(&self.progress.owed);
        let agent = Rc::clone(&self.agent);
        let (service, name) = (service.to_owned(), method.to_owned());
        let limit = limit.filter(|_| LIMITED.contains(&method));
        let work = spawn_local(async move {
            let work = agent.handle(&service, &name, request);
            let Some(limit) = limit else {
                return work.await;
            };
            let late = |_| {
                let message = format!("{name} was not done within {} ms", limit.as_millis());
                Err(Status::new(Code::DeadlineExceeded, message))
            };
            tokio::time::timeout(limit, work).await.unwrap_or_else(late)
        });
        let lost = |_| Err(Status::new(Code::Aborted, format!("{method} was given up")));
        work.await.unwrap_or_else(lost)
    }
}

/// Counts the answers that are written: each is flushed once.
struct Wire {
    // Closed before `live` says so.
    stream: Stream,
    progress: Rc<Progress>,
    #[expect(dead_code, reason = "its drop is what it is for")]
    live: Live,
}

struct Live(Rc<Progress>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.closed.set(true);
        self.0.changed.notify_waiters();
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            self.progress.count(&self.progress.sent);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
