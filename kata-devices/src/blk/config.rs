//! Description of a disk.

use std::path::PathBuf;

use super::device::Blk;
use super::layout::ID_LEN;
use crate::rate::RateLimit;
use crate::virtio::{Hosted, ThreadStart, VirtioDevice};
use crate::{Error, Result};

/// The most queues of a disk.
const MAX_QUEUES: u16 = 64;

/// A disk: a raw file or a block device of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlkConfig {
    /// The file or block device. Its size at the start is the disk's.
    pub path: PathBuf,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// What the guest sees as serial number, such as in `/dev/disk/by-id`; at most
    /// 20 bytes.
    pub serial: String,
    /// Request queues, 1 to 64.
    pub queues: u16,
    /// How the host's disk is laid out.
    pub topology: Topology,
    /// How much the guest may read and write.
    pub rate_limit: RateLimit,
    /// How the host reads and writes.
    pub engine: IoEngine,
}

/// How a disk is best used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Bytes of a block that can be written alone: a power of two from 512 to
    /// 65536.
    pub logical_block: u32,
    /// Bytes of a block that is written without reading it first: a power of two
    /// from the logical block's to 2^20.
    pub physical_block: u32,
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            logical_block: 512,
            physical_block: 4096,
        }
    }
}

/// How the host reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoEngine {
    /// `io_uring` where the host has it, plain system calls elsewhere.
    #[default]
    Auto,
    /// `io_uring`, or no disk.
    IoUring,
    /// Plain system calls, one after the other.
    Sequential,
}

impl BlkConfig {
    /// A disk that can be written, with one queue and no limits.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            read_only: false,
            serial: String::new(),
            queues: 1,
            topology: Topology::default(),
            rate_limit: RateLimit::default(),
            engine: IoEngine::Auto,
        }
    }

    /// Whether a device can be made of this, as far as it can be told without
    /// opening it.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a value out of range.
    pub fn validate(&self) -> Result<()> {
        let invalid = |field, reason| Err(Error::InvalidConfig { field, reason });
        if self.serial.len() > ID_LEN {
            let reason = format!("{:?} is longer than {ID_LEN} bytes", self.serial);
            return invalid("serial", reason);
        }
        if self.queues == 0 || self.queues > MAX_QUEUES {
            let reason = format!("{} is not 1 to {MAX_QUEUES}", self.queues);
            return invalid("queues", reason);
        }
        let Topology {
            logical_block: logical,
            physical_block: physical,
        } = self.topology;
        let fits = logical.is_power_of_two() && (512..=65536).contains(&logical);
        if !fits || !physical.is_power_of_two() || !(logical..=1 << 20).contains(&physical) {
            let reason = format!("blocks of {logical} and {physical} bytes make no disk");
            return invalid("topology", reason);
        }
        self.rate_limit.validate()
    }

    /// The device, for a transport of this process. `thread_start` is called by
    /// its thread.
    ///
    /// # Errors
    /// When the configuration is invalid, the disk cannot be opened, or the host
    /// refuses a thread.
    pub fn device(&self, thread_start: &ThreadStart) -> Result<Box<dyn VirtioDevice>> {
        let hosted = Hosted::start("kata-blk", thread_start, |epoll| Blk::new(self, epoll))?;
        Ok(Box::new(hosted))
    }
}
