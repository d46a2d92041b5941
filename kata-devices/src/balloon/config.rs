//! Description of a balloon.

use super::device::Inflatable;
use super::handle::Balloon;
use crate::virtio::{Hosted, ThreadStart, VirtioDevice};
use crate::{Error, Result};

/// A memory balloon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalloonConfig {
    /// Whether the guest tells of its free pages.
    pub reporting: bool,
    /// Whether the guest tells statistics when asked.
    pub statistics: bool,
    /// Whether the guest may take pages back before it kills a process for want
    /// of memory.
    pub deflate_on_oom: bool,
}

impl Default for BalloonConfig {
    fn default() -> Self {
        Self {
            reporting: true,
            statistics: true,
            deflate_on_oom: true,
        }
    }
}

impl BalloonConfig {
    /// The device, for a transport of this process, and the host's hand on it.
    /// `thread_start` is called by its thread.
    ///
    /// # Errors
    /// When the host refuses a descriptor or thread.
    pub fn device(&self, thread_start: &ThreadStart) -> Result<(Box<dyn VirtioDevice>, Balloon)> {
        let handle = Balloon::new().map_err(Error::host("make an eventfd"))?;
        let hosted = Hosted::start("kata-balloon", thread_start, |epoll| {
            Inflatable::new(self, &handle, epoll)
        })?;
        Ok((Box::new(hosted), handle))
    }
}
