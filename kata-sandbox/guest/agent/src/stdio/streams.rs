//! Streams that the host dialled, until a call names them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::time::Duration;

use kata_protocol::ttrpc::{Code, Status};
use log::warn;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::ServerAddress;
use crate::socket::ANY_CID;
use crate::transport::Listener;

/// How long a call waits for a stream it names: the host dials first, so it is
/// on its way.
const ARRIVAL: Duration = Duration::from_secs(10);
/// How long a stream waits for the call that names it.
const CLAIM: Duration = Duration::from_secs(60);
/// Streams that wait at one time; further ones are closed.
const WAITING: usize = 1024;

/// Streams by the port they were dialled from.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    waiting: RefCell<HashMap<u32, Arrived>>,
    changed: Notify,
}

#[derive(Debug)]
struct Arrived {
    stream: OwnedFd,
    at: Instant,
}

impl Streams {
    /// None yet.
    pub(crate) fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Takes streams that are dialled to a vsock port, in a local task.
    ///
    /// # Errors
    /// When the port cannot be listened on.
    pub(crate) fn listen_vsock(self: &Rc<Self>, port: u32) -> io::Result<()> {
        let listener = Listener::bind(&ServerAddress::Vsock { cid: ANY_CID, port }, port)?;
        let streams = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            if let Err(error) = accept(&listener, &streams).await {
                warn!(port, error:%; "no more standard streams can be dialled");
            }
        });
        Ok(())
    }

    /// Adds a stream that was dialled from `port`, until it is claimed or has
    /// waited too long.
    pub(crate) fn insert(self: &Rc<Self>, port: u32, stream: OwnedFd) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= WAITING {
            warn!(port; "too many standard streams wait to be used; closing one");
            return;
        }
        if waiting.is_empty() {
            tokio::task::spawn_local(expire(Rc::downgrade(self)));
        }
        waiting.insert(
            port,
            Arrived {
                stream,
                at: Instant::now(),
            },
        );
        self.changed.notify_waiters();
    }

    /// Takes the stream that was dialled from `port`, or waits for it.
    ///
    /// # Errors
    /// `DEADLINE_EXCEEDED` when it does not come.
    pub(super) async fn claim(&self, port: u32) -> Result<OwnedFd, Status> {
        let arrival = async {
            loop {
                let changed = self.changed.notified();
                if let Some(arrived) = self.waiting.borrow_mut().remove(&port) {
                    return arrived.stream;
                }
                changed.await;
            }
        };
        tokio::time::timeout(ARRIVAL, arrival).await.map_err(|_| {
            let message = format!(
                "no standard stream was dialled from port {port} within {} s",
                ARRIVAL.as_secs()
            );
            Status::new(Code::DeadlineExceeded, message)
        })
    }
}

async fn accept(listener: &Listener, streams: &Weak<Streams>) -> io::Result<()> {
    loop {
        let (stream, port) = listener.accept().await?;
        let Some(streams) = streams.upgrade() else {
            return Ok(());
        };
        match port {
            Some(port) => streams.insert(port, stream.into_std()?.into()),
            None => warn!("a standard stream came from nowhere; closing it"),
        }
    }
}

/// Closes streams that wait too long, as long as any wait.
async fn expire(streams: Weak<Streams>) {
    loop {
        let Some(oldest) = streams.upgrade().and_then(|streams| {
            streams
                .waiting
                .borrow()
                .values()
                .map(|arrived| arrived.at)
                .min()
        }) else {
            return;
        };
        tokio::time::sleep_until(oldest + CLAIM).await;
        if let Some(streams) = streams.upgrade() {
            streams
                .waiting
                .borrow_mut()
                .retain(|_, arrived| arrived.at.elapsed() < CLAIM);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::pipe;
    use tokio::task::LocalSet;

    #[tokio::test]
    async fn a_claim_waits_for_its_stream() {
        LocalSet::new()
            .run_until(async {
                let streams = Streams::new();
                let (stream, _other) = pipe().unwrap();
                let later = Rc::clone(&streams);
                tokio::task::spawn_local(async move { later.insert(7, stream) });
                streams.claim(7).await.unwrap();
                assert!(streams.waiting.borrow().is_empty());
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_never_comes_is_an_error_in_time() {
        let status = Streams::new().claim(7).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.message.contains("port 7"), "{status}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_nobody_claims_is_closed() {
        LocalSet::new()
            .run_until(async {
                let streams = Streams::new();
                let (stream, other) = pipe().unwrap();
                streams.insert(7, stream);
                tokio::time::sleep(CLAIM * 2).await;
                assert!(streams.waiting.borrow().is_empty());
                assert_eq!(
                    rustix::io::write(&other, b"x"),
                    Err(rustix::io::Errno::PIPE)
                );
            })
            .await;
    }
}
