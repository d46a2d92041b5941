//! One operation, and how far it has got.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use crate::blk::disk::{Disk, PUNCH, ZERO};
use crate::blk::engine::Operation;
use crate::blk::request::Range;
use crate::virtio::GuestMemory;
use crate::volatile_io::{read_vectors, vectors, write_vectors};

/// The most pieces of one submission (`IOV_MAX`).
const MAX_VECTORS: usize = 1024;

/// What the kernel works on.
pub(super) struct Job {
    pub(super) kind: Kind,
    /// The rest of the buffers, for reads and writes. The kernel may read these
    /// entries until the operation has ended.
    vectors: Box<[libc::iovec]>,
    /// How many entries at the front are done with.
    first: usize,
    /// Bytes that were moved.
    moved: usize,
    /// Keeps what `vectors` points at mapped.
    _memory: Arc<GuestMemory>,
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Read(u64),
    Write(u64, bool),
    Flush,
    Punch(Range),
    Zero(Range, bool),
}

pub(super) enum Progress {
    More,
    Done(io::Result<usize>),
}

impl Job {
    pub(super) fn new(operation: Operation<'_, '_>, memory: &Arc<GuestMemory>) -> Self {
        let (kind, vectors) = match operation {
            Operation::Read(offset, data) => (Kind::Read(offset), vectors(data)),
            Operation::Write {
                offset,
                data,
                durable,
            } => (Kind::Write(offset, durable), vectors(data)),
            Operation::Flush => (Kind::Flush, Box::default()),
            Operation::Punch(range) => (Kind::Punch(range), Box::default()),
            Operation::Zero(range, unmap) => (Kind::Zero(range, unmap), Box::default()),
        };
        Self {
            kind,
            vectors,
            first: 0,
            moved: 0,
            _memory: Arc::clone(memory),
        }
    }

    /// Buffers of the next step.
    fn rest(&self) -> &[libc::iovec] {
        let rest = &self.vectors[self.first..];
        &rest[..rest.len().min(MAX_VECTORS)]
    }

    /// The rest of it, as the kernel is told.
    pub(super) fn entry(&self, fd: types::Fd) -> io::Result<Entry> {
        let rest = self.rest();
        let count = u32::try_from(rest.len()).map_err(io::Error::other)?;
        let entry = match self.kind {
            Kind::Read(offset) => opcode::Readv::new(fd, rest.as_ptr(), count)
                .offset(offset + self.moved as u64)
                .build(),
            Kind::Write(offset, durable) => opcode::Writev::new(fd, rest.as_ptr(), count)
                .offset(offset + self.moved as u64)
                .rw_flags(if durable { libc::RWF_DSYNC } else { 0 })
                .build(),
            Kind::Flush => opcode::Fsync::new(fd)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
            Kind::Punch(range) | Kind::Zero(range, true) => allocate(fd, range, PUNCH),
            Kind::Zero(range, false) => allocate(fd, range, ZERO),
        };
        Ok(entry)
    }

    /// Does the rest of it here and now.
    pub(super) fn by_hand(&mut self, disk: &Disk) -> io::Result<usize> {
        loop {
            let result = match self.kind {
                Kind::Read(offset) => self.read(disk, offset),
                Kind::Write(offset, durable) => self.write(disk, offset, durable),
                Kind::Flush => return disk.flush().map(|()| 0),
                Kind::Punch(range) => return disk.punch(range).map(|()| 0),
                Kind::Zero(range, unmap) => return disk.zero(range, unmap).map(|()| 0),
            };
            if let Progress::Done(result) = self.advance(result) {
                return result;
            }
        }
    }

    fn read(&self, disk: &Disk, offset: u64) -> io::Result<usize> {
        let at = place(offset, self.moved)?;
        // SAFETY: the entries are ranges of guest memory that `_memory` keeps mapped.
        unsafe { read_vectors(disk.as_fd(), self.rest(), at) }
    }

    fn write(&self, disk: &Disk, offset: u64, durable: bool) -> io::Result<usize> {
        let at = place(offset, self.moved)?;
        // SAFETY: as in `read`.
        unsafe { write_vectors(disk.as_fd(), self.rest(), at, durable) }
    }

    /// A part was done, or all.
    pub(super) fn advance(&mut self, result: io::Result<usize>) -> Progress {
        if !matches!(self.kind, Kind::Read(_) | Kind::Write(..)) {
            return Progress::Done(result);
        }
        match result {
            Ok(0) => Progress::Done(Err(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => {
                self.moved += count;
                self.skip(count);
                if self.first == self.vectors.len() {
                    Progress::Done(Ok(self.moved))
                } else {
                    Progress::More
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Progress::More,
            Err(error) => Progress::Done(Err(error)),
        }
    }

    /// The first `count` bytes of the rest are done with.
    fn skip(&mut self, mut count: usize) {
        while let Some(vector) = self.vectors.get_mut(self.first) {
            if count < vector.iov_len {
                vector.iov_base = vector.iov_base.wrapping_byte_add(count);
                vector.iov_len -= count;
                return;
            }
            count -= vector.iov_len;
            self.first += 1;
        }
    }
}

fn place(offset: u64, moved: usize) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset + moved as u64).map_err(io::Error::other)
}

fn allocate(fd: types::Fd, range: Range, flags: rustix::fs::FallocateFlags) -> Entry {
    opcode::Fallocate::new(fd, range.length)
        .offset(range.offset)
        .mode(flags.bits().cast_signed())
        .build()
}
