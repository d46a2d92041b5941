//! Description of a console.

use std::os::fd::OwnedFd;

use super::device::Console;
use crate::Result;
use crate::virtio::{Hosted, ThreadStart, VirtioDevice};

/// A console. Both descriptors become non-blocking.
#[derive(Debug)]
pub struct ConsoleConfig {
    /// What the guest reads; `None` is nothing.
    pub input: Option<OwnedFd>,
    /// Where its output goes: a pipe, terminal, socket or file.
    pub output: OwnedFd,
}

impl ConsoleConfig {
    /// The device, for a transport of this process. `thread_start` is called by
    /// its thread.
    ///
    /// # Errors
    /// When the host refuses to watch the descriptors, or a thread.
    pub fn device(self, thread_start: &ThreadStart) -> Result<Box<dyn VirtioDevice>> {
        let hosted = Hosted::start("kata-console", thread_start, |epoll| {
            Console::new(self, epoll)
        })?;
        Ok(Box::new(hosted))
    }
}
