//! The file system as a vhost-user back end.

use std::io;

use super::device::Device;
use super::pool::{Pool, QUEUES};
use super::tree::{FsConfig, SharedTree};
use crate::Result;
use crate::epoll::Readiness;
use crate::queue::VirtQueue;
use crate::vhost_user::{Backend, RunningQueue};

/// A shared file system in the service of a front end.
pub(crate) struct Served {
    pool: Pool,
    tree: SharedTree,
}

impl Served {
    /// Starts the threads; requests wait for the front end.
    pub(crate) fn new(config: &FsConfig) -> Result<Self> {
        let pool = Pool::start(Device::new(config)?)?;
        Ok(Self {
            pool,
            tree: config.tree.clone(),
        })
    }
}

impl Backend for Served {
    fn features(&self) -> u64 {
        Device::FEATURES
    }

    fn queue_count(&self) -> usize {
        QUEUES
    }

    fn config_space(&self) -> Option<Vec<u8>> {
        // Front ends make it of a tag and number of queues of their own, and
        // QEMU complains of a back end that offers it.
        None
    }

    fn start(&mut self, index: usize, running: RunningQueue) -> io::Result<()> {
        self.pool.add(index, running)
    }

    fn stop(&mut self, index: usize) -> Option<VirtQueue> {
        self.pool.remove(index)
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
