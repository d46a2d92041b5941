//! A console of a machine's programs.

use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A virtio console (virtio 1.2, section 5.3): in the guest a terminal, `hvc0` in
/// Linux, beside the console to which the kernel writes.
///
/// Both descriptors become non-blocking, for everybody who has them.
#[derive(Clone, Debug)]
pub struct ConsoleConfig {
    /// What programs of the guest read: a pipe, socket, terminal or file; `None` is
    /// nothing.
    pub input: Option<Arc<OwnedFd>>,
    /// Where what they write goes. What is not taken there waits in the guest.
    pub output: Arc<OwnedFd>,
}
