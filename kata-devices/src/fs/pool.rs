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
use virtio_queue::QueueT;

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

/// How long they may take when the queue must not be missed after.
const PATIENCE: Duration = Duration::from_secs(10);

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
    /// How often the queue began anew: answers of before are nobody's.
    era: u64,
    /// Answers that came when the queue was away: heads and bytes.
    late: Vec<(u16, u32)>,
    /// How far the queue had got when it was taken away.
    stopped_at: Option<u16>,
}

impl SlotState {
    /// Whatever is under way is nobody's.
    fn begin_anew(&mut self) {
        self.era += 1;
        self.under_way = 0;
        self.late.clear();
        self.stopped_at = None;
    }
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
        if state.stopped_at != Some(running.queue.queue().next_avail()) {
            state.begin_anew();
        }
        state.stopping = false;
        let late = std::mem::take(&mut state.late);
        let running = state.running.insert(running);
        for (head, written) in late {
            self.crew.give(running, head, written);
        }
        drop(state);
        // Requests may be there already, of which there is no kick to come.
        self.crew.wake.raise();
        Ok(())
    }

    /// Takes a queue away. Requests that do not end for long are answered when it
    /// is added again and goes on where it stopped.
    pub(super) fn remove(&self, index: usize) -> Option<DeviceQueue> {
        let mut state = self.crew.slots[index].drain(GRACE);
        if state.under_way > 0 {
            self.crew.device.complain("requests do not end");
        }
        self.take(&mut state)
    }

    /// Takes a queue away, once the requests under way are done.
    ///
    /// # Errors
    /// When they do not end; the queue runs on.
    pub(super) fn quiesce(&self, index: usize) -> io::Result<Option<DeviceQueue>> {
        let mut state = self.crew.slots[index].drain(PATIENCE);
        if state.under_way == 0 {
            return Ok(self.take(&mut state));
        }
        state.stopping = false;
        drop(state);
        self.crew.wake.raise();
        let reason = "a request for shared files does not end";
        Err(io::Error::new(io::ErrorKind::TimedOut, reason))
    }

    fn take(&self, state: &mut SlotState) -> Option<DeviceQueue> {
        let running = state.running.take()?;
        state.stopped_at = Some(running.queue.queue().next_avail());
        // It was registered when it was added.
        let _ = self.crew.epoll.remove(&running.kick);
        Some(running)
    }

    /// Whatever is under way is nobody's any more; no queue runs.
    pub(super) fn begin_anew(&self) {
        for slot in &self.crew.slots {
            lock(&slot.state).begin_anew();
        }
    }
}

impl Slot {
    /// Begins no more requests, and waits for those under way, but not for ever.
    fn drain(&self, patience: Duration) -> MutexGuard<'_, SlotState> {
        let mut state = lock(&self.state);
        state.stopping = true;
        let drained = self
            .idle
            .wait_timeout_while(state, patience, |state| state.under_way > 0);
        drained.unwrap_or_else(PoisonError::into_inner).0
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
            log::error!(threads = *alive; "fs: threads wait for the host; waiting for them");
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
            ..
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
        // This one may take its time: somebody else is to hear of the next.
        let more = running.queue.enable_kicks(&memory);
        drop(state);
        let more = more.unwrap_or_else(|error| {
            self.device.complain(&error.to_string());
            false
        });
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
        match &mut state.running {
            Some(running) => self.give(running, head, written),
            None => state.late.push((head, written)),
        }
        if state.under_way == 0 {
            slot.idle.notify_all();
        }
        true
    }

    /// Gives an answer to the driver.
    fn give(&self, running: &mut DeviceQueue, head: u16, written: u32) {
        let queue = &mut running.queue;
        let given = queue
            .complete(&running.memory, head, written)
            .and_then(|()| queue.notify(&running.memory));
        if let Err(error) = given {
            self.device.complain(&error.to_string());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
