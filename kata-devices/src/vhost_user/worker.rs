//! The thread of a device: waits for the front end, the guest and the host.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use vhost::vhost_user::{BackendReqHandler, Error as ProtocolError};

use super::handler::Handler;
use super::server::{Ended, Shared};
use super::socket::SocketFile;
use crate::Result;
use crate::epoll::{Epoll, Readiness, Ready};
use crate::virtio::Driven;

/// Tokens of the loop itself; queues have the small ones.
const STOP: u64 = (1 << 32) - 1;
const LISTENER: u64 = (1 << 32) - 2;
const FRONT_END: u64 = (1 << 32) - 3;

/// How the front end comes.
#[derive(Debug)]
pub(super) enum Entrance {
    /// It will connect.
    Listening(UnixListener, SocketFile),
    /// It has.
    Connected(UnixStream),
}

impl Entrance {
    /// Listens on `socket`, where nothing may be yet.
    pub(super) fn listen(socket: &Path) -> Result<Self> {
        let (listener, file) = SocketFile::listen(socket)?;
        Ok(Self::Listening(listener, file))
    }
}

/// The loop of one device.
pub(super) struct Worker<B: Driven> {
    epoll: Arc<Epoll>,
    handler: Arc<Mutex<Handler<B>>>,
    entrance: Option<(UnixListener, SocketFile)>,
    front_end: Option<BackendReqHandler<Mutex<Handler<B>>>>,
    shared: Arc<Shared>,
}

impl<B: Driven> Worker<B> {
    /// A loop over `epoll`, in which `backend` may have descriptors already.
    pub(super) fn new(
        backend: B,
        epoll: Arc<Epoll>,
        entrance: Entrance,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        epoll.add(shared.stop(), STOP, EventFlags::IN)?;
        let handler = Arc::new(Mutex::new(Handler::new(backend)));
        let mut worker = Self {
            epoll,
            handler,
            entrance: None,
            front_end: None,
            shared,
        };
        match entrance {
            Entrance::Listening(listener, file) => {
                listener.set_nonblocking(true)?;
                worker.epoll.add(&listener, LISTENER, EventFlags::IN)?;
                worker.entrance = Some((listener, file));
            }
            Entrance::Connected(stream) => worker.attach(stream)?,
        }
        Ok(worker)
    }

    /// Serves until there is nobody to serve.
    pub(super) fn run(mut self) -> Ended {
        let ended = self.serve();
        lock(&self.handler).stop();
        ended
    }

    fn serve(&mut self) -> Ended {
        let mut ready = Ready::new();
        let mut more = false;
        loop {
            let now = more.then(Instant::now);
            let deadline = now.or_else(|| lock(&self.handler).backend().next_deadline());
            if let Err(error) = self.epoll.wait(&mut ready, deadline) {
                return Ended::failed("wait for events", error);
            }
            for readiness in ready.iter() {
                if let Err(ended) = self.dispatch(readiness) {
                    return ended;
                }
            }
            let mut handler = lock(&self.handler);
            if handler.backend().next_deadline().is_some() {
                handler.backend().expire(Instant::now());
            }
            more = handler.backend().proceed();
        }
    }

    fn dispatch(&mut self, readiness: Readiness) -> Result<(), Ended> {
        match readiness.token {
            STOP => Err(Ended::Stopped),
            LISTENER => self.accept(),
            FRONT_END => self.answer(),
            _ => {
                lock(&self.handler).backend().handle(readiness);
                Ok(())
            }
        }
    }

    fn accept(&mut self) -> Result<(), Ended> {
        let Some((listener, _)) = &self.entrance else {
            return Ok(());
        };
        match listener.accept() {
            Ok((stream, _)) => {
                // One front end, and no more.
                self.entrance = None;
                self.attach(stream)
                    .map_err(|error| Ended::failed("accept the front end", error))
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::Interrupted
                        | io::ErrorKind::ConnectionAborted
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(Ended::failed("accept the front end", error)),
        }
    }

    fn attach(&mut self, stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        self.shared.attach(stream.try_clone()?);
        self.epoll.add_level(&stream, FRONT_END, EventFlags::IN)?;
        self.front_end = Some(BackendReqHandler::from_stream(
            stream,
            Arc::clone(&self.handler),
        ));
        Ok(())
    }

    fn answer(&mut self) -> Result<(), Ended> {
        let Some(front_end) = &mut self.front_end else {
            return Ok(());
        };
        match front_end.handle_request() {
            Ok(()) => Ok(()),
            Err(ProtocolError::Disconnected | ProtocolError::SocketBroken(_)) => {
                Err(Ended::Disconnected)
            }
            // The front end hears of it, if it asked to; it decides what to do.
            Err(ProtocolError::ReqHandlerError(error)) => {
                log::warn!(error:%; "vhost-user: refused a request");
                Ok(())
            }
            Err(ProtocolError::SocketRetry(_)) => Ok(()),
            // QEMU enables the rings of a network card before it has negotiated
            // that it may. The message was read whole, and needs no answer.
            Err(ProtocolError::InactiveFeature(_)) => {
                lock(&self.handler).enabled_early();
                Ok(())
            }
            Err(error) => Err(Ended::failed(
                "serve the front end",
                io::Error::other(error),
            )),
        }
    }
}

/// A lock whose holder panicked is as good as any: its thread is ending.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
