//! The portable engine: each operation is done when it is begun.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::disk::Disk;
use super::engine::{Completion, Engine, Operation};
use crate::virtio::GuestMemory;

/// Plain system calls, one after the other.
#[derive(Debug)]
pub(super) struct Sequential {
    disk: Arc<Disk>,
}

impl Sequential {
    pub(super) fn new(disk: Arc<Disk>) -> Self {
        Self { disk }
    }
}

impl Engine for Sequential {
    fn begin(
        &mut self,
        tag: u32,
        operation: Operation<'_, '_>,
        _memory: &Arc<GuestMemory>,
        done: &mut Vec<Completion>,
    ) {
        done.push((tag, perform(&self.disk, operation)));
    }

    fn reap(&mut self, _done: &mut Vec<Completion>) {}

    fn wait(&mut self, _done: &mut Vec<Completion>) -> io::Result<()> {
        Ok(())
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Carries out an operation.
pub(super) fn perform(disk: &Disk, operation: Operation<'_, '_>) -> io::Result<usize> {
    match operation {
        Operation::Read(offset, data) => disk.read(offset, data),
        Operation::Write {
            offset,
            data,
            durable,
        } => disk.write(offset, data, durable),
        Operation::Flush => disk.flush().map(|()| 0),
        Operation::Punch(range) => disk.punch(range).map(|()| 0),
        Operation::Zero(range, unmap) => disk.zero(range, unmap).map(|()| 0),
    }
}
