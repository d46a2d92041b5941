//! QEMU's machine protocol: JSON objects, one a line, both ways.
//!
//! [`codec`] reads lines of bounded length and tells replies from events
//! (pure); [`client`] matches replies to commands and keeps what the events
//! said. Nothing polls: a task reads the socket until it closes.

mod client;
mod codec;
mod event;

pub(crate) use client::{Qmp, QmpError};
pub(crate) use event::{Plugged, Seen, Shutdown};
