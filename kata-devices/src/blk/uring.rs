//! The engine over `io_uring`: operations overlap.
#![expect(
    unsafe_code,
    reason = "the kernel works on guest memory after the call that told it to"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use io_uring::register::Restriction;
use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};

use super::disk::{Disk, PUNCH, ZERO};
use super::engine::{Completion, Engine, MAX_IN_FLIGHT, Operation};
use super::request::Range;
use super::sequential::perform;
use crate::epoll::Event;
use crate::virtio::GuestMemory;
use crate::volatile_io::vectors;

/// The most pieces of one submission (`IOV_MAX`).
const MAX_VECTORS: usize = 1024;

/// What the kernel works on.
struct Job {
    kind: Kind,
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
enum Kind {
    Read(u64),
    Write(u64, bool),
    Flush,
    Punch(Range),
    Zero(Range, bool),
}

/// An `io_uring` of one disk.
pub(super) struct Uring {
    ring: IoUring,
    disk: Arc<Disk>,
    bell: Event,
    /// By tag.
    jobs: Vec<Option<Job>>,
    in_flight: usize,
}

// SAFETY: the pointers in `jobs` are to guest memory that each job keeps mapped,
// and which any thread may use; nothing else is bound to a thread.
unsafe impl Send for Uring {}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring")
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

impl Uring {
    /// A ring for `disk`.
    pub(super) fn new(disk: Arc<Disk>) -> io::Result<Self> {
        let entries = u32::try_from(MAX_IN_FLIGHT).map_err(io::Error::other)?;
        let mut builder = IoUring::builder();
        let ring: IoUring = builder.setup_r_disabled().build(entries)?;
        let mut known = io_uring::Probe::new();
        ring.submitter().register_probe(&mut known)?;
        let needed = [
            opcode::Readv::CODE,
            opcode::Writev::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
        ];
        if !needed.iter().all(|code| known.is_supported(*code)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let bell = Event::new()?;
        ring.submitter()
            .register_eventfd(bell.as_fd().as_raw_fd())?;
        // System call filters do not see what a ring is asked for: the ring does
        // nothing else, whoever gets hold of it.
        let mut restrictions = needed.map(Restriction::sqe_op);
        ring.submitter().register_restrictions(&mut restrictions)?;
        ring.submitter().register_enable_rings()?;
        Ok(Self {
            ring,
            disk,
            bell,
            jobs: std::iter::repeat_with(|| None)
                .take(MAX_IN_FLIGHT)
                .collect(),
            in_flight: 0,
        })
    }

    /// Tells the kernel of the job under `tag`.
    fn push(&mut self, tag: u32) -> io::Result<()> {
        let Some(Some(job)) = usize::try_from(tag).ok().and_then(|at| self.jobs.get(at)) else {
            return Err(io::Error::other("no such job"));
        };
        let fd = types::Fd(self.disk.as_fd().as_raw_fd());
        let entry = job.entry(fd)?.user_data(u64::from(tag));
        // SAFETY: the entry points at `job.vectors`, which is on the heap and stays
        // in `jobs` until the kernel has said that the operation ended; those point
        // at guest memory that the job keeps mapped. The file is open as long as
        // `disk`, which is dropped after the ring has no operation left (`drop`).
        let mut pushed = unsafe { self.ring.submission().push(&entry) };
        if pushed.is_err() {
            self.ring.submit()?;
            // SAFETY: the same.
            pushed = unsafe { self.ring.submission().push(&entry) };
        }
        pushed.map_err(io::Error::other)?;
        self.in_flight += 1;
        Ok(())
    }

    /// Takes what the kernel has ended; what it did in part goes on.
    fn collect(&mut self, done: &mut Vec<Completion>) {
        loop {
            let Some(completed) = self.ring.completion().next() else {
                return;
            };
            self.in_flight -= 1;
            let Ok(tag) = u32::try_from(completed.user_data()) else {
                continue;
            };
            let Some(Some(job)) = usize::try_from(tag)
                .ok()
                .and_then(|at| self.jobs.get_mut(at))
            else {
                continue;
            };
            let result = usize::try_from(completed.result())
                .map_err(|_| io::Error::from_raw_os_error(-completed.result()));
            match job.advance(result) {
                Progress::More => {
                    if let Err(error) = self.push(tag) {
                        self.end(tag, Err(error), done);
                    }
                }
                Progress::Done(result) => {
                    let result = self.second_way(tag, result);
                    self.end(tag, result, done);
                }
            }
        }
    }

    /// Zeroes that the file system does not know are written, and so are those
    /// of a range that is not of the device's own blocks.
    fn second_way(&self, tag: u32, result: io::Result<usize>) -> io::Result<usize> {
        let job = usize::try_from(tag)
            .ok()
            .and_then(|at| self.jobs[at].as_ref());
        match (result, job.map(|job| job.kind)) {
            (Err(error), Some(Kind::Zero(range, _)))
                if [Some(libc::EOPNOTSUPP), Some(libc::EINVAL)].contains(&error.raw_os_error()) =>
            {
                self.disk.write_zeroes(range).map(|()| 0)
            }
            (result, _) => result,
        }
    }

    fn end(&mut self, tag: u32, result: io::Result<usize>, done: &mut Vec<Completion>) {
        if let Ok(at) = usize::try_from(tag) {
            self.jobs[at] = None;
        }
        done.push((tag, result));
    }
}

enum Progress {
    More,
    Done(io::Result<usize>),
}

impl Job {
    fn new(operation: Operation<'_, '_>, memory: &Arc<GuestMemory>) -> Self {
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

    fn entry(&self, fd: types::Fd) -> io::Result<Entry> {
        let rest = &self.vectors[self.first..];
        let count = u32::try_from(rest.len().min(MAX_VECTORS)).map_err(io::Error::other)?;
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

    /// The kernel has done a part, or all.
    fn advance(&mut self, result: io::Result<usize>) -> Progress {
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

fn allocate(fd: types::Fd, range: Range, flags: rustix::fs::FallocateFlags) -> Entry {
    opcode::Fallocate::new(fd, range.length)
        .offset(range.offset)
        .mode(flags.bits().cast_signed())
        .build()
}

impl Engine for Uring {
    fn begin(
        &mut self,
        tag: u32,
        operation: Operation<'_, '_>,
        memory: &Arc<GuestMemory>,
        done: &mut Vec<Completion>,
    ) {
        let slot = usize::try_from(tag)
            .ok()
            .and_then(|at| self.jobs.get_mut(at));
        let Some(slot @ None) = slot else {
            return done.push((tag, Err(io::Error::other("no such job"))));
        };
        *slot = Some(Job::new(operation, memory));
        if let Err(error) = self.push(tag) {
            // It was not handed over: do it here and now.
            log::debug!(error:%; "blk: io_uring takes nothing");
            let result = perform(&self.disk, operation);
            self.end(tag, result, done);
        }
    }

    fn reap(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        self.collect(done);
        self.ring.submit()?;
        self.collect(done);
        Ok(())
    }

    fn wait(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        while self.in_flight > 0 {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let before = done.len();
            self.collect(done);
            if done.len() > before {
                break;
            }
        }
        Ok(())
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bell.as_fd())
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let mut done = Vec::new();
        while self.in_flight > 0 {
            if let Err(error) = self.wait(&mut done) {
                // The kernel may still write: what it writes to must stay.
                log::error!(error:%; "blk: operations do not end; leaving their memory");
                for job in self.jobs.drain(..) {
                    std::mem::forget(job);
                }
                return;
            }
            done.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_does_nothing_but_what_a_disk_needs() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let disk = Arc::new(Disk::open(file.path(), true).unwrap());
        let mut uring = match Uring::new(disk) {
            Ok(uring) => uring,
            Err(error) => return eprintln!("skipped: io_uring: {error}"),
        };
        // SAFETY: the operation has no memory.
        unsafe { uring.ring.submission().push(&opcode::Nop::new().build()) }.unwrap();
        uring.ring.submit_and_wait(1).unwrap();
        let ended = uring.ring.completion().next().unwrap();
        assert_eq!(ended.result(), -libc::EACCES);
    }
}
