//! A device whose work is done when events come.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::device::{DeviceEvents, DeviceKind, DeviceQueue};
use super::state::{DeviceState, StateError};
use crate::epoll::Readiness;

/// A device that one loop drives: that of a [`Hosted`](super::Hosted) device in
/// this process, or of a vhost-user server. One thread at a time calls it.
pub(crate) trait Driven: Send + 'static {
    /// Whether it wants a thread for its loop. One that has threads of its own,
    /// or needs none, does not.
    const WANTS_THREAD: bool = true;

    /// What kind of device it is.
    fn kind(&self) -> DeviceKind;

    /// The features that it offers.
    fn features(&self) -> u64;

    /// The largest size of each queue.
    fn queue_sizes(&self) -> Vec<u16>;

    /// The configuration space.
    fn config(&self) -> Vec<u8>;

    /// Reads the configuration space while another thread drives the device, for
    /// which a driver must not wait. One whose space changes has more to do here.
    fn config_reader(&self) -> ConfigReader {
        let space = self.config();
        Box::new(move || space.clone())
    }

    /// The driver writes to the configuration space.
    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}

    /// How many of its queues a vhost-user front end leaves to it.
    fn served_queues(&self) -> usize {
        self.queue_sizes().len()
    }

    /// Whether a vhost-user front end asks it for the configuration space.
    fn serves_config(&self) -> bool {
        true
    }

    /// The driver has chosen its features.
    fn negotiated(&mut self, _features: u64) {}

    /// How to tell the driver of changes; `None` when there is no driver.
    fn attach(&mut self, _events: Option<Arc<dyn DeviceEvents>>) {}

    /// Lets it use a queue.
    fn start(&mut self, index: usize, queue: DeviceQueue) -> io::Result<()>;

    /// Takes a queue back, whatever is under way. `None` when it is not running.
    /// The device waits for what is under way as long as a driver may be kept
    /// waiting; if that does not end, it is told to nobody but a queue that goes
    /// on where this one stopped.
    fn stop(&mut self, index: usize) -> Option<DeviceQueue>;

    /// Takes a queue back, after the last access to it and to its memory. `None`
    /// when it is not running.
    ///
    /// # Errors
    /// When what is under way does not end; the queue runs on.
    fn quiesce(&mut self, index: usize) -> io::Result<Option<DeviceQueue>> {
        Ok(self.stop(index))
    }

    /// The driver starts anew; its queues are stopped.
    fn reset(&mut self) {}

    /// One of its descriptors is ready.
    fn handle(&mut self, readiness: Readiness);

    /// Does what there is to do. `true` when there is more, although no descriptor
    /// will tell.
    fn proceed(&mut self) -> bool {
        false
    }

    /// When [`expire`](Self::expire) has something to do.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Time has come to `now`.
    fn expire(&mut self, _now: Instant) {}

    /// What must be kept to make it anew.
    fn save(&mut self) -> Result<DeviceState, StateError> {
        DeviceState::new(self.kind(), 1, &())
    }

    /// Takes over what [`save`](Self::save) gave.
    fn restore(&mut self, state: &DeviceState) -> Result<(), StateError> {
        state.read::<()>(self.kind(), 1)
    }
}

/// Reads the configuration space as it is now.
pub(crate) type ConfigReader = Box<dyn Fn() -> Vec<u8> + Send + Sync>;

type Run = dyn Fn(&str) -> io::Result<()> + Send + Sync;

/// What a device's thread does first: to confine itself, to pin itself. It is
/// given the thread's name.
///
/// ```
/// use kata_devices::virtio::ThreadStart;
///
/// let start = ThreadStart::new(|name| {
///     log::debug!("{name} begins");
///     Ok(())
/// });
/// # drop(start);
/// ```
#[derive(Clone, Default)]
pub struct ThreadStart {
    run: Option<Arc<Run>>,
}

impl ThreadStart {
    /// Lets each thread call `run` before anything else. A thread whose call
    /// fails ends, and its device with it.
    pub fn new(run: impl Fn(&str) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self {
            run: Some(Arc::new(run)),
        }
    }

    pub(crate) fn run(&self, name: &str) -> io::Result<()> {
        self.run.as_ref().map_or(Ok(()), |run| run(name))
    }
}

impl std::fmt::Debug for ThreadStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadStart")
            .field("set", &self.run.is_some())
            .finish()
    }
}
