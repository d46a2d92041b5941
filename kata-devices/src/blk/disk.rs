//! The file or block device behind a disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use vm_memory::VolatileSlice;

use super::layout::SECTOR;
use super::lock::{Claim, claim};
use super::request::Range;
use crate::{Error, Result, pieces, volatile_io};

/// Bytes of zeroes written at once.
const ZEROES: usize = 64 << 10;

/// An open disk.
#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    sectors: u64,
}

impl Disk {
    /// Opens `path`. What lies beyond its last whole sector is not used.
    pub(super) fn open(path: &Path, read_only: bool) -> Result<Self> {
        let failed = |source| Error::Host {
            operation: format!("open the disk {}", path.display()),
            source,
        };
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::InvalidConfig {
                field: "path",
                reason: format!("{} is no file or block device", path.display()),
            });
        }
        // A device is known to the kernel by its number, whatever its name: alone
        // with it is whoever opens it so, file systems that are mounted included.
        let alone = kind.is_block_device() && !read_only;
        let mut file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .custom_flags(if alone { libc::O_EXCL } else { 0 })
            .open(path)
            .map_err(|source| match source.raw_os_error() {
                Some(libc::EBUSY) => in_use(path, read_only),
                _ => failed(source),
            })?;
        match claim(&file, read_only) {
            Ok(Claim::Ours) => {}
            Ok(Claim::Taken) => return Err(in_use(path, read_only)),
            // As QEMU does: a file system without locks has disks all the same.
            Err(error) => {
                log::warn!(error:%, path:% = path.display(); "blk: the disk cannot be locked");
            }
        }
        // Works for block devices too, of which the metadata tells no size.
        let bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self {
            file,
            sectors: bytes / SECTOR,
        })
    }

    /// Sectors of 512 bytes.
    pub(super) fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Fills `data` from `offset` on.
    pub(super) fn read(&self, offset: u64, data: &[VolatileSlice<'_>]) -> io::Result<usize> {
        move_all(offset, data, |rest, at| {
            volatile_io::read_at(&self.file, rest, at)
        })
    }

    /// Writes `data` at `offset`.
    pub(super) fn write(
        &self,
        offset: u64,
        data: &[VolatileSlice<'_>],
        durable: bool,
    ) -> io::Result<usize> {
        move_all(offset, data, |rest, at| {
            volatile_io::write_at(&self.file, rest, at, durable)
        })
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        Ok(fdatasync(&self.file)?)
    }

    pub(super) fn punch(&self, range: Range) -> io::Result<()> {
        Ok(fallocate(&self.file, PUNCH, range.offset, range.length)?)
    }

    /// Makes `range` zeroes, by writing them if the file system knows no better.
    pub(super) fn zero(&self, range: Range, unmap: bool) -> io::Result<()> {
        let mode = if unmap { PUNCH } else { ZERO };
        match fallocate(&self.file, mode, range.offset, range.length) {
            // Or a range that is not of the device's own blocks.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => {
                self.write_zeroes(range)
            }
            other => Ok(other?),
        }
    }

    /// Writes zeroes one after the other.
    pub(super) fn write_zeroes(&self, range: Range) -> io::Result<()> {
        let zeroes = vec![0; ZEROES];
        let end = range.offset + range.length;
        let mut at = range.offset;
        while at < end {
            let count = zeroes
                .len()
                .min(usize::try_from(end - at).unwrap_or(usize::MAX));
            let written = rustix::io::pwrite(&self.file, &zeroes[..count], at)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            at += written as u64;
        }
        Ok(())
    }
}

fn in_use(path: &Path, read_only: bool) -> Error {
    Error::DiskInUse {
        path: path.to_owned(),
        read_only,
    }
}

/// Gives the space of a range back; the file keeps its size.
pub(super) const PUNCH: FallocateFlags =
    FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

/// Makes a range zeroes; the file keeps its size.
pub(super) const ZERO: FallocateFlags = FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE);

impl AsFd for Disk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Calls `step` until all of `data` was moved.
fn move_all<'m>(
    offset: u64,
    data: &[VolatileSlice<'m>],
    mut step: impl FnMut(&[VolatileSlice<'m>], libc::off_t) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut rest = data.to_vec();
    let mut moved = 0;
    while !rest.is_empty() {
        let at = libc::off_t::try_from(offset + moved as u64).map_err(io::Error::other)?;
        match step(&rest, at) {
            // The file is shorter than it was.
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                moved += count;
                pieces::skip(&mut rest, count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(moved)
}
