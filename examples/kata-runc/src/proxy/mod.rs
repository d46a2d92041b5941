//! The process that stands for a container's process on the host.
//!
//! ```text
//!   caller ── stdio or terminal ──▶ proxy ── streams ──▶ the process in the guest
//!   command ── order ──▶ proxy ── ready, or what failed ──▶ command
//! ```
//!
//! Its id is what `state` and `--pid-file` give. It has the caller's streams,
//! or the terminal whose other end the caller has; signals that reach it go to
//! the process in the guest, and it ends as that process ends: with its status,
//! or of the signal that killed it.

mod ending;
mod order;
mod place;
mod relay;
mod serve;
mod signals;
mod spawn;

pub(crate) use order::{Netns, Order, Task};
pub(crate) use serve::run;
pub(crate) use signals::{Forwarded, Received};
pub(crate) use spawn::{Proxy, Stdio};
