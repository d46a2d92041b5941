//! A device in this process, with its thread.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::device::{Activation, DeviceEvents, DeviceKind, DeviceQueue, VirtioDevice};
use super::driven::{ConfigReader, Driven, ThreadStart};
use super::fair::FairMutex;
use super::state::{DeviceState, StateError};
use crate::epoll::{Epoll, Event, Ready};
use crate::{Error, Result};

/// How long the thread may take to end before that is worth a word.
const GRACE: Duration = Duration::from_secs(5);

/// Tokens of the loop itself; queues have the small ones.
const STOP: u64 = (1 << 32) - 1;
const WAKE: u64 = (1 << 32) - 2;

/// What the transport and the thread share.
struct Shared<D> {
    seat: FairMutex<Seat<D>>,
    epoll: Arc<Epoll>,
    stop: Event,
    /// Something changed that the loop does not see.
    wake: Event,
    alive: Mutex<bool>,
    died: Condvar,
}

/// The device, and whom it may tell of its end.
struct Seat<D> {
    device: D,
    events: Option<Arc<dyn DeviceEvents>>,
}

/// A device in this process. Dropping it ends its thread, and waits however long
/// the host takes for what the thread does: then the device has let go of
/// everything.
pub(crate) struct Hosted<D: Driven> {
    shared: Arc<Shared<D>>,
    thread: Option<JoinHandle<()>>,
    config: ConfigReader,
    kind: DeviceKind,
    features: u64,
    sizes: Vec<u16>,
}

impl<D: Driven> Hosted<D> {
    /// Hosts the device that `make` makes, which may watch descriptors with
    /// tokens above 2^32 of its own.
    pub(crate) fn start(
        name: &str,
        thread_start: &ThreadStart,
        make: impl FnOnce(&Arc<Epoll>) -> Result<D>,
    ) -> Result<Self> {
        let epoll = Arc::new(Epoll::new().map_err(Error::host("make an epoll set"))?);
        let device = make(&epoll)?;
        let mut hosted = Self::of(device, epoll)?;
        if D::WANTS_THREAD {
            hosted.spawn(name, thread_start.clone())?;
        }
        Ok(hosted)
    }

    /// The same without a thread: the device works when it is told to.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn stepped(
        make: impl FnOnce(&Arc<Epoll>) -> Result<D>,
    ) -> Result<(Self, Arc<dyn Step>)> {
        let epoll = Arc::new(Epoll::new().map_err(Error::host("make an epoll set"))?);
        let device = make(&epoll)?;
        let hosted = Self::of(device, epoll)?;
        let shared = Arc::clone(&hosted.shared);
        // There is no thread that could have ended.
        *lock(&shared.alive) = true;
        Ok((hosted, shared))
    }

    fn of(device: D, epoll: Arc<Epoll>) -> Result<Self> {
        let (kind, features, sizes) = (device.kind(), device.features(), device.queue_sizes());
        let config = device.config_reader();
        let shared = Shared::new(device, epoll).map_err(Error::host("make an eventfd"))?;
        Ok(Self {
            shared: Arc::new(shared),
            thread: None,
            config,
            kind,
            features,
            sizes,
        })
    }

    fn spawn(&mut self, name: &str, thread_start: ThreadStart) -> Result<()> {
        let life = Life::begin(&self.shared);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let name = std::thread::current();
                let ran = thread_start
                    .run(name.name().unwrap_or_default())
                    .and_then(|()| life.0.run());
                if let Err(error) = ran {
                    log::error!(error:%, thread = name.name(); "a device's thread ends");
                }
            })
            .map_err(Error::host(format!("start the thread {name}")))?;
        self.thread = Some(thread);
        Ok(())
    }
}

/// A device that works when it is told to.
#[cfg(any(test, feature = "testing"))]
pub(crate) trait Step: Send + Sync {
    /// Does one round of work; `true` when there is more.
    fn step(&self) -> bool;
}

#[cfg(any(test, feature = "testing"))]
impl<D: Driven> Step for Shared<D> {
    fn step(&self) -> bool {
        let mut ready = Ready::new();
        if let Err(error) = self.epoll.wait(&mut ready, Some(Instant::now())) {
            log::error!(error:%; "cannot wait for events");
            return false;
        }
        let device = &mut self.seat.lock().device;
        for readiness in ready.iter().filter(|ready| ready.token != WAKE) {
            device.handle(readiness);
        }
        device.proceed() | (ready.iter().next().is_some())
    }
}

/// A thread's life, however it ends.
struct Life<D: Driven>(Arc<Shared<D>>);

impl<D: Driven> Life<D> {
    fn begin(shared: &Arc<Shared<D>>) -> Self {
        *lock(&shared.alive) = true;
        Self(Arc::clone(shared))
    }
}

impl<D: Driven> Drop for Life<D> {
    fn drop(&mut self) {
        *lock(&self.0.alive) = false;
        self.0.died.notify_all();
        // Nobody serves the queues any more.
        if let Some(events) = &self.0.seat.lock().events {
            events.needs_reset();
        }
    }
}

impl<D: Driven> Shared<D> {
    fn new(device: D, epoll: Arc<Epoll>) -> io::Result<Self> {
        let (stop, wake) = (Event::new()?, Event::new()?);
        epoll.add(&stop, STOP, EventFlags::IN)?;
        epoll.add(&wake, WAKE, EventFlags::IN)?;
        let seat = Seat {
            device,
            events: None,
        };
        Ok(Self {
            seat: FairMutex::new(seat),
            epoll,
            stop,
            wake,
            alive: Mutex::new(false),
            died: Condvar::new(),
        })
    }

    /// The loop, until it is told to stop.
    fn run(&self) -> io::Result<()> {
        let mut ready = Ready::new();
        let mut deadline = None;
        loop {
            self.epoll.wait(&mut ready, deadline)?;
            let device = &mut self.seat.lock().device;
            for readiness in ready.iter() {
                match readiness.token {
                    STOP => return Ok(()),
                    WAKE => {}
                    _ => device.handle(readiness),
                }
            }
            if device.next_deadline().is_some() {
                device.expire(Instant::now());
            }
            let more = device.proceed();
            deadline = more.then(Instant::now).or_else(|| device.next_deadline());
        }
    }
}

impl<D: Driven> VirtioDevice for Hosted<D> {
    fn kind(&self) -> DeviceKind {
        self.kind
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn config(&self) -> Vec<u8> {
        // Not in the seat, which is taken while the device works.
        (self.config)()
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.shared.seat.lock().device.write_config(offset, data);
        self.shared.wake.raise();
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        if D::WANTS_THREAD && !*lock(&self.shared.alive) {
            return Err(io::Error::other("the device's thread has ended"));
        }
        let mut seat = self.shared.seat.lock();
        seat.device.negotiated(activation.features);
        seat.device.attach(Some(Arc::clone(&activation.events)));
        seat.events = Some(activation.events);
        for (index, queue) in activation.queues {
            seat.device.start(index, queue)?;
        }
        drop(seat);
        self.shared.wake.raise();
        Ok(())
    }

    fn quiesce(&mut self, queue: usize) -> io::Result<Option<DeviceQueue>> {
        self.shared.seat.lock().device.quiesce(queue)
    }

    fn resume(&mut self, index: usize, queue: DeviceQueue) -> io::Result<()> {
        self.shared.seat.lock().device.start(index, queue)?;
        self.shared.wake.raise();
        Ok(())
    }

    fn reset(&mut self) {
        let mut seat = self.shared.seat.lock();
        for index in 0..self.sizes.len() {
            seat.device.stop(index);
        }
        seat.device.attach(None);
        seat.events = None;
        seat.device.reset();
    }

    fn save(&mut self) -> Result<DeviceState, StateError> {
        self.shared.seat.lock().device.save()
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), StateError> {
        self.shared.seat.lock().device.restore(state)
    }
}

impl<D: Driven> Drop for Hosted<D> {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.shared.stop.raise();
        let (alive, _) = self
            .shared
            .died
            .wait_timeout_while(lock(&self.shared.alive), GRACE, |alive| *alive)
            .unwrap_or_else(PoisonError::into_inner);
        if *alive {
            log::error!(thread = thread.thread().name(); "a device's thread does not end; waiting for it");
        }
        drop(alive);
        if thread.join().is_err() {
            log::error!("a device's thread panicked");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
