//! A device in the service of a front end.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::worker::{Entrance, Worker, lock};
use crate::epoll::{Epoll, Event};
use crate::virtio::Driven;
use crate::{Error, Result};

/// How long the threads may take to end before that is worth a word.
const GRACE: Duration = Duration::from_secs(5);

/// Why a server serves no more.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Ended {
    /// It was shut down.
    Stopped,
    /// The front end hung up, or died.
    Disconnected,
    /// It could not go on.
    Failed {
        /// What it attempted.
        operation: &'static str,
        /// Why that failed.
        source: Arc<io::Error>,
    },
}

impl Ended {
    pub(super) fn failed(operation: &'static str, source: io::Error) -> Self {
        Self::Failed {
            operation,
            source: Arc::new(source),
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stopped => f.write_str("the device was shut down"),
            Self::Disconnected => f.write_str("the front end hung up"),
            Self::Failed { operation, source } => write!(f, "cannot {operation}: {source}"),
        }
    }
}

/// What the server and its thread know of each other.
#[derive(Debug)]
pub(super) struct Shared {
    stop: Event,
    ended: Mutex<Option<Ended>>,
    changed: Condvar,
    /// Readable once it has ended.
    bell: Event,
    front_end: Mutex<Option<UnixStream>>,
}

impl Shared {
    fn new() -> io::Result<Self> {
        Ok(Self {
            stop: Event::new()?,
            ended: Mutex::new(None),
            changed: Condvar::new(),
            bell: Event::new()?,
            front_end: Mutex::new(None),
        })
    }

    pub(super) fn stop(&self) -> &Event {
        &self.stop
    }

    /// The front end is there; a stop must not wait for it.
    pub(super) fn attach(&self, stream: UnixStream) {
        *lock(&self.front_end) = Some(stream);
    }

    fn end(&self, how: Ended) {
        *lock(&self.front_end) = None;
        lock(&self.ended).get_or_insert(how);
        self.changed.notify_all();
        self.bell.raise();
    }
}

/// Tells that the thread ended, even if it panicked.
struct LastWords(Arc<Shared>);

impl Drop for LastWords {
    fn drop(&mut self) {
        self.0.end(Ended::failed(
            "serve: the device's thread panicked",
            io::Error::other("panic"),
        ));
    }
}

/// A device behind a vhost-user socket.
///
/// The socket is there when the constructor returns, so the front end can be
/// started at once. Dropping the server ends the device, joins its threads and
/// removes its sockets, wherever the front end is by then. It waits however long
/// the host takes for what the threads do: then what is behind the device can be
/// somebody else's.
///
/// The server is a file descriptor that becomes readable when the device has
/// ended, for whatever reason; [`ended`](Self::ended) says which.
///
/// ```no_run
/// use kata_devices::vhost_user::Server;
/// use kata_devices::vsock::VsockConfig;
///
/// # fn main() -> kata_devices::Result<()> {
/// let config = VsockConfig { guest_cid: 3, socket: "/run/pod/vsock".into() };
/// let server = Server::vsock(&config, "/run/pod/vsock-vhost".as_ref())?;
/// // qemu-system-x86_64 … -chardev socket,id=vsock,path=/run/pod/vsock-vhost
/// //                      -device vhost-user-vsock-device,chardev=vsock
/// # drop(server); Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Why the device has ended; `None` while it serves or waits.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        lock(&self.shared.ended).clone()
    }

    /// Ends the device and waits for its threads. What dropping does, too.
    pub fn shutdown(mut self) {
        self.stop();
    }

    /// Serves the device that `make` makes, which may watch descriptors with
    /// tokens above 2^32 of its own.
    pub(super) fn start<D: Driven>(
        name: &str,
        entrance: Entrance,
        make: impl FnOnce(&Arc<Epoll>) -> Result<D>,
    ) -> Result<Self> {
        let epoll = Arc::new(Epoll::new().map_err(Error::host("make an epoll set"))?);
        let device = make(&epoll)?;
        let shared = Arc::new(Shared::new().map_err(Error::host("make an eventfd"))?);
        let worker = Worker::new(device, epoll, entrance, Arc::clone(&shared))
            .map_err(Error::host("watch the vhost-user socket"))?;
        let last_words = LastWords(Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let last_words = last_words;
                let ended = worker.run();
                if let Ended::Failed { operation, source } = &ended {
                    log::error!(error:% = source; "vhost-user: cannot {operation}");
                }
                last_words.0.end(ended);
            })
            .map_err(Error::host(format!("start the thread {name}")))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    fn stop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.shared.stop.raise();
        if let Some(front_end) = &*lock(&self.shared.front_end) {
            // Ends a read that waits for the rest of a message.
            let _ = front_end.shutdown(Shutdown::Both);
        }
        let ended = lock(&self.shared.ended);
        let (ended, _) = self
            .shared
            .changed
            .wait_timeout_while(ended, GRACE, |ended| ended.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        if ended.is_none() {
            log::error!(thread = thread.thread().name(); "vhost-user: a thread does not end; waiting for it");
        }
        drop(ended);
        if thread.join().is_err() {
            log::error!("vhost-user: the device's thread panicked");
        }
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.bell.as_fd()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
