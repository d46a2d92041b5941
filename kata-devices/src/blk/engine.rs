//! What reads and writes a disk. Engines know no descriptors.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::request::Range;
use crate::virtio::GuestMemory;

/// The most requests of a disk that are under way.
pub const MAX_IN_FLIGHT: usize = 256;

/// One operation on the disk. Offsets are in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation<'a, 'm> {
    Read(u64, &'a [VolatileSlice<'m>]),
    Write {
        offset: u64,
        data: &'a [VolatileSlice<'m>],
        durable: bool,
    },
    Flush,
    /// Punch a hole, that is read as zeroes.
    Punch(Range),
    /// Make zeroes; the space may be given back if `true`.
    Zero(Range, bool),
}

/// An operation that ended: its tag and the bytes that were moved.
pub(super) type Completion = (u32, io::Result<usize>);

/// Carries out operations, each under a tag of the caller's.
pub(super) trait Engine: Send {
    /// Begins an operation on `memory`, in which all of its pieces lie. Not before
    /// it is in `done` are they left alone.
    fn begin(
        &mut self,
        tag: u32,
        operation: Operation<'_, '_>,
        memory: &Arc<GuestMemory>,
        done: &mut Vec<Completion>,
    );

    /// Hands over what was begun, and collects what has ended. What the host does
    /// not take now, it takes when something has ended.
    fn reap(&mut self, done: &mut Vec<Completion>);

    /// Waits until at least one operation has ended, if there are any.
    fn wait(&mut self, done: &mut Vec<Completion>) -> io::Result<()>;

    /// Readable when there is something to reap; `None` when there never is.
    fn event(&self) -> Option<BorrowedFd<'_>>;
}
