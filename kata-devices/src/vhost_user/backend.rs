//! What a device must be to be served.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use crate::epoll::Readiness;
use crate::queue::{GuestMemory, VirtQueue};

/// A queue that runs: the device may use it, and is kicked through `kick`.
#[derive(Debug)]
pub(crate) struct RunningQueue {
    pub(crate) queue: VirtQueue,
    pub(crate) kick: Arc<OwnedFd>,
    pub(crate) memory: Arc<GuestMemory>,
}

/// A device behind a vhost-user connection. One thread calls it.
pub(crate) trait Backend: Send + 'static {
    /// The virtio features that it offers.
    fn features(&self) -> u64;

    /// How many queues it has.
    fn queue_count(&self) -> usize;

    /// The bytes of its configuration space; `None` when the front end has it.
    fn config_space(&self) -> Option<Vec<u8>>;

    /// Lets it use a queue.
    fn start(&mut self, index: usize, running: RunningQueue) -> std::io::Result<()>;

    /// Takes a queue back, after the last access to it and to its memory. `None`
    /// when it is not running.
    fn stop(&mut self, index: usize) -> Option<VirtQueue>;

    /// One of its descriptors is ready.
    fn handle(&mut self, readiness: Readiness);

    /// Whether it has work left for [`proceed`](Self::proceed), although no
    /// descriptor will tell.
    fn proceed(&mut self) -> bool {
        false
    }

    /// When [`expire`](Self::expire) has something to do.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Time has come to `now`.
    fn expire(&mut self, _now: Instant) {}
}
