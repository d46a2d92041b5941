//! The file system as its loop sees it.

use std::io;

use super::device::{Device, REQUEST_QUEUES};
use super::pool::{Pool, QUEUES};
use super::tree::{FsConfig, SharedTree};
use crate::Result;
use crate::epoll::Readiness;
use crate::virtio::{DeviceKind, DeviceQueue, Driven, ThreadStart};

/// The largest queue.
const QUEUE_SIZE: u16 = 1024;

/// Bytes of the tag in the configuration space, padded with zeroes.
const TAG_LEN: usize = 36;

/// The configuration space: tag and number of request queues (virtio 1.2 §5.11.4).
fn config_space(tag: &str) -> Vec<u8> {
    let mut space = tag.as_bytes().to_vec();
    space.resize(TAG_LEN, 0);
    space.extend(u32::from(REQUEST_QUEUES).to_le_bytes());
    space
}

/// A shared file system in the service of a driver.
pub(crate) struct Served {
    pool: Pool,
    tag: String,
    tree: SharedTree,
}

impl Served {
    /// Starts the threads; requests wait for the front end.
    pub(crate) fn new(config: &FsConfig, thread_start: &ThreadStart) -> Result<Self> {
        let pool = Pool::start(Device::new(config)?, thread_start)?;
        Ok(Self {
            pool,
            tag: config.tag.clone(),
            tree: config.tree.clone(),
        })
    }
}

impl Driven for Served {
    /// The pool's threads wait for the kicks.
    const WANTS_THREAD: bool = false;

    fn kind(&self) -> DeviceKind {
        DeviceKind::FS
    }

    fn features(&self) -> u64 {
        Device::FEATURES
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; QUEUES]
    }

    fn config(&self) -> Vec<u8> {
        config_space(&self.tag)
    }

    fn serves_config(&self) -> bool {
        // Front ends make it of a tag and number of queues of their own, and
        // QEMU complains of a back end that offers it.
        false
    }

    fn start(&mut self, index: usize, running: DeviceQueue) -> io::Result<()> {
        self.pool.add(index, running)
    }

    fn stop(&mut self, index: usize) -> Option<DeviceQueue> {
        self.pool.remove(index)
    }

    fn quiesce(&mut self, index: usize) -> io::Result<Option<DeviceQueue>> {
        self.pool.quiesce(index)
    }

    fn reset(&mut self) {
        self.pool.begin_anew();
        // Whatever the guest had open, it is gone.
        self.tree.end();
    }

    fn handle(&mut self, _readiness: Readiness) {
        // The pool's threads wait for the kicks.
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Whatever the guest had open, it is gone.
        self.tree.end();
    }
}
