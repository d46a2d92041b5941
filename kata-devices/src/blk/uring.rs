//! The engine over `io_uring`: operations overlap.
//!
//! ```text
//!   begin ──▶ submission queue ──submit──▶ the kernel ──▶ completions ──▶ done
//!                    └── if it takes nothing: done by hand ────────────────▲
//! ```
#![expect(
    unsafe_code,
    reason = "the kernel works on guest memory after the call that told it to"
)]

mod job;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use io_uring::register::Restriction;
use io_uring::{EnterFlags, IoUring, opcode, types};

use self::job::{Job, Kind, Progress};
use super::disk::Disk;
use super::engine::{Completion, Engine, MAX_IN_FLIGHT, Operation};
use crate::epoll::Event;
use crate::virtio::GuestMemory;

/// An `io_uring` of one disk.
pub(super) struct Uring {
    ring: IoUring,
    disk: Arc<Disk>,
    bell: Event,
    /// By tag.
    jobs: Vec<Option<Job>>,
    /// Jobs in the submission queue, in its order.
    queued: VecDeque<u32>,
    /// Jobs that the kernel works on.
    in_kernel: usize,
    /// The kernel has refused what was in the submission queue. It stays there,
    /// done by hand, and must never be submitted.
    refused: bool,
}

// SAFETY: the pointers in `jobs` are to guest memory that each job keeps mapped,
// and which any thread may use; nothing else is bound to a thread.
unsafe impl Send for Uring {}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring")
            .field("queued", &self.queued)
            .field("in_kernel", &self.in_kernel)
            .field("refused", &self.refused)
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
            queued: VecDeque::with_capacity(MAX_IN_FLIGHT),
            in_kernel: 0,
            refused: false,
        })
    }

    fn job(&mut self, tag: u32) -> Option<&mut Job> {
        self.jobs.get_mut(usize::try_from(tag).ok()?)?.as_mut()
    }

    /// Puts the job under `tag` into the submission queue, or does it by hand.
    fn push(&mut self, tag: u32, done: &mut Vec<Completion>) {
        if self.refused {
            return self.by_hand(tag, done);
        }
        match self.enqueue(tag) {
            Ok(()) => self.queued.push_back(tag),
            Err(error) => {
                log::debug!(error:%; "blk: a request does not fit into io_uring");
                self.by_hand(tag, done);
            }
        }
    }

    fn enqueue(&mut self, tag: u32) -> io::Result<()> {
        let fd = types::Fd(self.disk.as_fd().as_raw_fd());
        let job = self.job(tag).ok_or(io::ErrorKind::NotFound)?;
        let entry = job.entry(fd)?.user_data(u64::from(tag));
        // SAFETY: the entry points at the job's vectors, which are on the heap and
        // stay in `jobs` until the kernel has said that the operation ended, or
        // the entry is never submitted (`refused`); those point at guest memory
        // that the job keeps mapped. The file is open as long as `disk`, which is
        // dropped after the ring has no operation left (`drop`).
        let pushed = unsafe { self.ring.submission().push(&entry) };
        // There is room for as many as there are tags, and each is there once.
        pushed.map_err(io::Error::other)
    }

    /// Hands over what is in the submission queue. `false` when the kernel takes
    /// the rest only after something has ended, which the bell tells.
    fn submit(&mut self, done: &mut Vec<Completion>) -> bool {
        while !self.queued.is_empty() {
            let result = self.ring.submit();
            let left = self.ring.submission().len();
            let taken = self.queued.len().saturating_sub(left);
            self.queued.drain(..taken);
            self.in_kernel += taken;
            match result {
                Ok(_) if taken > 0 => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if !is_passing(&error) => self.refuse(&error, done),
                _ if self.in_kernel > 0 => return false,
                // Nothing will end: there is nothing to wait for.
                Ok(_) => self.refuse(&io::ErrorKind::WouldBlock.into(), done),
                Err(error) => self.refuse(&error, done),
            }
        }
        true
    }

    /// Goes on without the kernel's help: what it does not take is done by hand,
    /// now and for ever.
    fn refuse(&mut self, error: &io::Error, done: &mut Vec<Completion>) {
        log::warn!(error:%; "blk: io_uring takes no requests; reading and writing one by one");
        self.refused = true;
        for tag in std::mem::take(&mut self.queued) {
            self.by_hand(tag, done);
        }
    }

    fn by_hand(&mut self, tag: u32, done: &mut Vec<Completion>) {
        let disk = Arc::clone(&self.disk);
        let gone = || Err(io::ErrorKind::NotFound.into());
        let result = self.job(tag).map_or_else(gone, |job| job.by_hand(&disk));
        self.end(tag, result, done);
    }

    /// Takes what the kernel has ended; what it did in part goes on.
    fn collect(&mut self, done: &mut Vec<Completion>) {
        loop {
            let Some(completed) = self.ring.completion().next() else {
                return;
            };
            self.in_kernel = self.in_kernel.saturating_sub(1);
            let result = usize::try_from(completed.result())
                .map_err(|_| io::Error::from_raw_os_error(-completed.result()));
            let Ok(tag) = u32::try_from(completed.user_data()) else {
                continue;
            };
            let Some(job) = self.job(tag) else {
                continue;
            };
            match job.advance(result) {
                Progress::More => self.push(tag, done),
                Progress::Done(result) => {
                    let result = self.second_way(tag, result);
                    self.end(tag, result, done);
                }
            }
        }
    }

    /// Zeroes that the file system does not know are written, and so are those
    /// of a range that is not of the device's own blocks. What the kernel cannot
    /// do for want of its own memory is done by hand.
    fn second_way(&mut self, tag: u32, result: io::Result<usize>) -> io::Result<usize> {
        let disk = Arc::clone(&self.disk);
        let Some(job) = self.job(tag) else {
            return result;
        };
        match (result, job.kind) {
            (Err(error), Kind::Zero(range, _))
                if [Some(libc::EOPNOTSUPP), Some(libc::EINVAL)].contains(&error.raw_os_error()) =>
            {
                disk.write_zeroes(range).map(|()| 0)
            }
            (Err(error), _) if is_passing(&error) => job.by_hand(&disk),
            (result, _) => result,
        }
    }

    fn end(&mut self, tag: u32, result: io::Result<usize>, done: &mut Vec<Completion>) {
        if let Some(job) = usize::try_from(tag)
            .ok()
            .and_then(|at| self.jobs.get_mut(at))
        {
            *job = None;
        }
        done.push((tag, result));
    }

    /// Waits for an operation that the kernel works on.
    fn await_one(&self) -> io::Result<()> {
        loop {
            // SAFETY: nothing is submitted, and there is no argument.
            let waited = unsafe {
                let flags = EnterFlags::GETEVENTS.bits();
                self.ring
                    .submitter()
                    .enter::<libc::sigset_t>(0, 1, flags, None)
            };
            match waited {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether the kernel lacks something that it may have again.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY))
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
        self.push(tag, done);
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        loop {
            self.collect(done);
            if self.queued.is_empty() || !self.submit(done) {
                return;
            }
        }
    }

    fn wait(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        loop {
            let before = done.len();
            self.reap(done);
            if done.len() > before || self.in_kernel == 0 {
                return Ok(());
            }
            self.await_one()?;
        }
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bell.as_fd())
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let mut done = Vec::new();
        while self.in_kernel > 0 {
            self.collect(&mut done);
            if self.in_kernel == 0 {
                break;
            }
            if let Err(error) = self.await_one() {
                // The kernel may still write: what it writes to must stay.
                log::error!(error:%; "blk: operations do not end; leaving their memory");
                for job in self.jobs.drain(..) {
                    std::mem::forget(job);
                }
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
