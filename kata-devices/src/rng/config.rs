//! Description of a source of entropy.

use crate::rate::RateLimit;
use crate::virtio::{Hosted, ThreadStart, VirtioDevice};
use crate::{Result, rng::Rng};

/// A source of entropy; the host's `getrandom`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RngConfig {
    /// How much the guest may draw.
    pub rate_limit: RateLimit,
}

impl RngConfig {
    /// Whether a device can be made of this.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for a limit that lets
    /// nothing pass.
    pub fn validate(&self) -> Result<()> {
        self.rate_limit.validate()
    }

    /// The device, for a transport of this process. `thread_start` is called by
    /// its thread.
    ///
    /// # Errors
    /// When the configuration is invalid, or the host refuses a thread.
    pub fn device(&self, thread_start: &ThreadStart) -> Result<Box<dyn VirtioDevice>> {
        self.validate()?;
        let hosted = Hosted::start("kata-rng", thread_start, |epoll| Ok(Rng::new(self, epoll)))?;
        Ok(Box::new(hosted))
    }
}
