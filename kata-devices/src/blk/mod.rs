//! virtio-blk: disks of files and block devices of the host (virtio 1.2 §5.2).
//!
//! ```text
//!   rings ──▶ Request::parse ──▶ Blk (limits, what is under way) ──▶ Engine
//!                                  ▲                             ├─ io_uring
//!                                  └────────── completions ──────┴─ preadv, pwritev
//! ```
//!
//! Parsing knows no files, the engines know no descriptors. A disk has one
//! thread for all of its queues; with `io_uring` requests overlap, without it
//! they are served one by one.
//!
//! # What a guest may rely on
//! A flush that is answered put everything answered before onto the disk. A
//! driver that does not know flushes gets a disk that writes through.
//!
//! # Who else may have it
//! A disk that is written belongs to one machine; one that is only read, to any
//! number that only read it. Locks say so, the same as QEMU's, so that machines of
//! QEMU count. A block device that is written is claimed as if it were mounted,
//! by which name ever it was opened.
//!
//! # Guest-controlled
//! Descriptor chains, headers, sectors and lengths. What is out of range is
//! answered with an error; a chain that has no place for an answer breaks the
//! queue and the device asks for a reset. At most [`MAX_IN_FLIGHT`] requests are
//! under way, whatever the driver does.

mod config;
mod device;
mod disk;
mod engine;
mod layout;
mod lock;
mod offer;
mod request;
mod sequential;
#[cfg(test)]
mod tests;
mod uring;

pub use config::{BlkConfig, IoEngine, Topology};
pub(crate) use device::Blk;
pub use engine::MAX_IN_FLIGHT;
#[cfg(any(test, feature = "testing"))]
pub use request::parse_for_tests;
