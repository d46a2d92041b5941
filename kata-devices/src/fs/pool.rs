//! The threads that serve requests.
//!
//! Several share the queues, so that one that waits for a slow disk leaves
//! another for everybody else. Whoever is idle takes the next request; a thread
//! wakes another only when there is more than one.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::epoll::EventFlags;

use super::credentials;
use super::device::{Device, REQUEST_QUEUES};
use crate::epoll::{Epoll, Event, Ready};
use crate::virtio::{DeviceQueue, ThreadStart};
use crate::{Error, Result};

/// The high-priority queue and those for requests.
pub(super) const QUEUES: usize = REQUEST_QUEUES as usize + 1;

/// Threads per device.
const THREADS: usize = 2;

/// How long requests under way may take when a queue is stopped.
const GRACE: Duration = Duration::from_secs(3);

const STOP: u64 = 1 << 16;
const WAKE: u64 = STOP + 1;

/// A queue that several threads serve.
#[derive(Debug, Default)]
struct Slot {
    state: Mutex<SlotState>,
    /// Signalled when the last request under way is done.
    idle: Condvar,
}

#[derive(Debug, Default)]
struct SlotState {
    running: Option<DeviceQueue>,
    /// No further requests are taken.
    stopping: bool,
    under_way: usize,
    /// How often the queue was taken away: answers of before are nobody's.
    era: u64,
}

/// What the threads share.
struct Crew {
    device: Device,
    epoll: Epoll,
    stop: Event,
    wake: Event,
    waiting: AtomicUsize,
    slots: [Slot; QUEUES],
    alive: Mutex<usize>,
    died: Condvar,
}

/// Threads that serve the queues of one device.
pub(super) struct Pool {
    crew: Arc<Crew>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts the threads; there are no queues yet.
    pub(super) fn start(device: Device, thread_start: &ThreadStart) -> Result<Self> {
        let crew = Crew::new(device).map_err(Error::host("make an epoll set"))?;
        let mut pool = Self {
            crew: Arc::new(crew),
            threads: Vec::new(),
        };
        for number in 0..THREADS {
            let life = Life::begin(&pool.crew);
            let thread_start = thread_start.clone();
            let thread = std::thread::Builder::new()
                .name(format!("kata-fs-{number}"))
                .spawn(move || {
                    let name = std::thread::current();
                    match thread_start.run(name.name().unwrap_or_default()) {
                        Ok(()) => life.0.work(),
                        Err(error) => log::error!(error:%; "fs: a thread cannot begin"),
                    }
                })
                .map_err(Error::host("start a thread for the shared file system"))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Lets the threads serve a queue.
    pub(super) fn add(&self, index: usize, running: DeviceQueue) -> io::Result<()> {
        let token = u64::try_from(index).map_err(io::Error::other)?;
        self.crew.epoll.add(&running.kick, token, EventFlags::IN)?;
        let mut state = lock(&self.crew.slots[index].state);
        state.stopping = false;
        state.running = Some(running);
        drop(state);
        // Requests may be there already, of which there is no kick to come.
        self.crew.wake.raise();
        Ok(())
    }

    /// Takes a queue away, once the requests under way are done.
    pub(super) fn remove(&self, index: usize) -> Option<DeviceQueue> {
        let slot = &self.crew.slots[index];
        let mut state = lock(&slot.state);
        // It was registered when it was added.
        let _ = self.crew.epoll.remove(&state.running.as_ref()?.kick);
        state.stopping = true;
        let (mut state, waited) = slot
            .idle
            .wait_timeout_while(state, GRACE, |state| state.under_way > 0)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            self.crew
                .device
                .complain("requests do not end; nobody will have their answers");
        }
        state.era += 1;
        state.under_way = 0;
        state.running.take()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.crew.stop.raise();
        let (alive, _) = self
            .crew
            .died
            .wait_timeout_while(lock(&self.crew.alive), GRACE, |alive| *alive > 0)
            .unwrap_or_else(PoisonError::into_inner);
        if *alive > 0 {
            log::error!(threads = *alive; "fs: threads wait for the host; leaving them");
            return;
        }
        drop(alive);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("fs: a thread panicked");
            }
        }
    }
}

/// A thread's life, counted from before it starts until it has ended, however.
struct Life(Arc<Crew>);

impl Life {
    fn begin(crew: &Arc<Crew>) -> Self {
        *lock(&crew.alive) += 1;
        Self(Arc::clone(crew))
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        *lock(&self.0.alive) -= 1;
        self.0.died.notify_all();
    }
}

impl Crew {
    fn new(device: Device) -> io::Result<Self> {
        let crew = Self {
            device,
            epoll: Epoll::new()?,
            stop: Event::new()?,
            wake: Event::new()?,
            waiting: AtomicUsize::new(0),
            slots: Default::default(),
            alive: Mutex::new(0),
            died: Condvar::new(),
        };
        crew.epoll.add_level(&crew.stop, STOP, EventFlags::IN)?;
        crew.epoll.add(&crew.wake, WAKE, EventFlags::IN)?;
        Ok(crew)
    }

    /// A thread's work, until it is told to stop.
    fn work(&self) {
        credentials::clear_umask_of_this_thread();
        credentials::keep_capabilities_of_this_thread();
        let mut ready = Ready::new();
        loop {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            let waited = self.epoll.wait(&mut ready, None);
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            if let Err(error) = waited {
                log::error!(error:%; "fs: cannot wait for requests");
                return;
            }
            if ready.iter().any(|readiness| readiness.token == STOP) {
                return;
            }
            // Which queue was kicked matters little: there are few, and asking
            // them costs nothing. The first is the one that must not wait.
            for slot in &self.slots {
                while self.serve_one(slot) {}
            }
        }
    }

    /// Serves a request; `false` when there is none.
    fn serve_one(&self, slot: &Slot) -> bool {
        let mut state = lock(&slot.state);
        let SlotState {
            running: Some(running),
            stopping: false,
            under_way,
            era,
        } = &mut *state
        else {
            return false;
        };
        let memory = Arc::clone(&running.memory);
        let chain = match running.queue.next(&memory) {
            Ok(Some(chain)) => chain,
            Ok(None) => return false,
            Err(error) => {
                self.device.complain(&error.to_string());
                return false;
            }
        };
        *under_way += 1;
        let era = *era;
        let more = running.queue.has_available(&memory);
        drop(state);
        if more && self.waiting.load(Ordering::SeqCst) > 0 {
            self.wake.raise();
        }

        let head = chain.head_index();
        let written = self.device.serve(&memory, chain);

        let mut state = lock(&slot.state);
        if state.era != era {
            return false;
        }
        state.under_way -= 1;
        if let Some(running) = &mut state.running {
            let queue = &mut running.queue;
            let given = queue
                .complete(&memory, head, written)
                .and_then(|()| queue.notify(&memory));
            if let Err(error) = given {
                self.device.complain(&error.to_string());
            }
        }
        if state.under_way == 0 {
            slot.idle.notify_all();
        }
        true
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
