//! Hears when a back end hangs up.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::event::epoll::EventFlags;

use crate::epoll::{Epoll, Event, Ready};
use crate::virtio::{DeviceEvents, ThreadStart};

const STOP: u64 = 0;
const SOCKET: u64 = 1;

/// A thread that waits for the end of a connection.
pub(super) struct Watch {
    listener: Arc<Mutex<Option<Arc<dyn DeviceEvents>>>>,
    stop: Arc<Event>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches `socket`, of which nothing is read.
    pub(super) fn start(socket: OwnedFd, thread_start: &ThreadStart) -> io::Result<Self> {
        let (epoll, stop) = (Epoll::new()?, Arc::new(Event::new()?));
        epoll.add(&*stop, STOP, EventFlags::IN)?;
        epoll.add(&socket, SOCKET, EventFlags::RDHUP)?;
        let listener: Arc<Mutex<Option<Arc<dyn DeviceEvents>>>> = Arc::default();
        let hears = Arc::clone(&listener);
        let thread_start = thread_start.clone();
        let thread = std::thread::Builder::new()
            .name("kata-vhost".to_owned())
            .spawn(move || {
                let _open = socket;
                let ended = thread_start.run("kata-vhost").and_then(|()| wait(&epoll));
                match ended {
                    Ok(true) => return,
                    Ok(false) => log::warn!("vhost-user: the back end hung up"),
                    Err(error) => log::error!(error:%; "vhost-user: cannot watch the back end"),
                }
                if let Some(events) = &*hears.lock().unwrap_or_else(PoisonError::into_inner) {
                    events.needs_reset();
                }
            })?;
        Ok(Self {
            listener,
            stop,
            thread: Some(thread),
        })
    }

    /// Who is to hear of it.
    pub(super) fn tell(&self, events: Option<Arc<dyn DeviceEvents>>) {
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = events;
    }
}

/// Waits for the end: `true` is that of the device, `false` that of the back end.
fn wait(epoll: &Epoll) -> io::Result<bool> {
    let mut ready = Ready::new();
    loop {
        epoll.wait(&mut ready, None)?;
        if let Some(readiness) = ready.iter().next() {
            return Ok(readiness.token == STOP);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.raise();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("vhost-user: the watching thread panicked");
        }
    }
}
