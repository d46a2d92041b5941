//! What a chain asks of a disk. Pure: no I/O, no state but the disk's size.
//!
//! Guest-controlled: everything.

use vm_memory::{GuestAddress, VolatileSlice};

use super::layout::{self, HEADER_LEN, ID_LEN, RANGE_LEN, SECTOR, Status, UNMAP};
use super::layout::{MAX_BYTES, MAX_DISCARD, MAX_ZEROES, SEG_MAX};
use crate::pieces;
use crate::virtio::{Chain, ChainError};

/// What a driver may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Sectors of the disk.
    pub(super) capacity: u64,
    /// Whether it may only be read.
    pub(super) read_only: bool,
    /// Bytes of a piece of data, as far as the driver knows.
    pub(super) size_max: u64,
}

/// What a request weighs that moves nothing and takes its time.
const SLOW: u64 = 1 << 20;

/// A range of the disk, in bytes, that lies on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Action<'m> {
    /// Read the disk at a byte offset.
    Read(u64, Vec<VolatileSlice<'m>>),
    /// Write it.
    Write(u64, Vec<VolatileSlice<'m>>),
    /// Make durable what was written.
    Flush,
    /// Say which disk it is.
    Identify(Vec<VolatileSlice<'m>>),
    /// Give a range back to the host; what is read from it then is undefined.
    Discard(Range),
    /// Make a range zeroes; it may be given back if `true`.
    Zero(Range, bool),
    /// Nothing: this is the answer.
    Answer(Status),
}

/// A request.
#[derive(Debug)]
pub(super) struct Request<'m> {
    /// What gives the chain back.
    pub(super) head: u16,
    /// Where the status byte goes.
    pub(super) status: GuestAddress,
    pub(super) action: Action<'m>,
}

impl<'m> Request<'m> {
    /// The request in `chain` (§5.2.6). The layout of the buffers is the driver's
    /// choice: only their order counts.
    pub(super) fn parse(mut chain: Chain<'m>, limits: &Limits) -> Result<Self, ChainError> {
        let status = chain.last_writable.ok_or(ChainError::Short("a status"))?;
        pieces::split_back(&mut chain.writable, 1).ok_or(ChainError::Short("a status"))?;
        let mut header = [0; HEADER_LEN];
        pieces::copy_to(&chain.readable, &mut header).ok_or(ChainError::Short("a header"))?;
        pieces::skip(&mut chain.readable, HEADER_LEN);
        let kind = word(&header, 0);
        let sector = u64::from(word(&header, 8)) | u64::from(word(&header, 12)) << 32;
        Ok(Self {
            head: chain.head,
            status,
            action: action(kind, sector, chain, limits).unwrap_or_else(Action::Answer),
        })
    }

    /// Bytes to be read or written, zeroes included.
    pub(super) fn bytes(&self) -> u64 {
        match &self.action {
            Action::Read(_, data) | Action::Write(_, data) => pieces::length(data) as u64,
            Action::Zero(range, _) => range.length,
            _ => 0,
        }
    }

    /// How long it keeps the host busy, in bytes of data that would take as long.
    pub(super) fn weight(&self) -> u64 {
        match &self.action {
            Action::Flush | Action::Discard(_) => SLOW,
            _ => self.bytes(),
        }
    }
}

fn action<'m>(
    kind: u32,
    sector: u64,
    chain: Chain<'m>,
    limits: &Limits,
) -> Result<Action<'m>, Status> {
    let writes = matches!(kind, layout::WRITE | layout::DISCARD | layout::WRITE_ZEROES);
    if writes && limits.read_only {
        return Err(Status::Failed);
    }
    match kind {
        layout::READ => {
            let offset = limits.place(sector, &chain.writable)?;
            Ok(Action::Read(offset, chain.writable))
        }
        layout::WRITE => {
            let offset = limits.place(sector, &chain.readable)?;
            Ok(Action::Write(offset, chain.readable))
        }
        layout::FLUSH => Ok(Action::Flush),
        layout::GET_ID if chain.writable_len() >= ID_LEN => Ok(Action::Identify(chain.writable)),
        layout::GET_ID => Err(Status::Failed),
        layout::DISCARD => match range(&chain, limits, MAX_DISCARD)? {
            // Flags are reserved here (§5.2.6.2).
            (range, 0) => Ok(Action::Discard(range)),
            _ => Err(Status::Unsupported),
        },
        layout::WRITE_ZEROES => match range(&chain, limits, MAX_ZEROES)? {
            (range, 0) => Ok(Action::Zero(range, false)),
            (range, UNMAP) => Ok(Action::Zero(range, true)),
            _ => Err(Status::Unsupported),
        },
        _ => Err(Status::Unsupported),
    }
}

impl Limits {
    /// The byte offset of `data` from `sector` on, if it is on the disk and within
    /// what a request may have.
    fn place(&self, sector: u64, data: &[VolatileSlice<'_>]) -> Result<u64, Status> {
        let length = pieces::length(data) as u64;
        if length == 0 || !length.is_multiple_of(SECTOR) {
            return Err(Status::Failed);
        }
        let large = data.iter().any(|piece| piece.len() as u64 > self.size_max);
        if large || length > MAX_BYTES || data.len() > SEG_MAX as usize {
            return Err(Status::Failed);
        }
        self.range(sector, length / SECTOR)
            .map(|range| range.offset)
    }

    fn range(&self, sector: u64, sectors: u64) -> Result<Range, Status> {
        let end = sector.checked_add(sectors).ok_or(Status::Failed)?;
        if end > self.capacity {
            return Err(Status::Failed);
        }
        // The capacity came from a size in bytes: no product overflows.
        Ok(Range {
            offset: sector * SECTOR,
            length: sectors * SECTOR,
        })
    }
}

/// The one range, and its flags, of a discard or of zeroes.
fn range(chain: &Chain<'_>, limits: &Limits, most: u32) -> Result<(Range, u32), Status> {
    let mut bytes = [0; RANGE_LEN];
    if chain.readable_len() != RANGE_LEN {
        return Err(Status::Failed);
    }
    pieces::copy_to(&chain.readable, &mut bytes).ok_or(Status::Failed)?;
    let sector = u64::from(word(&bytes, 0)) | u64::from(word(&bytes, 4)) << 32;
    let sectors = word(&bytes, 8);
    if sectors == 0 || sectors > most {
        return Err(Status::Failed);
    }
    let range = limits.range(sector, u64::from(sectors))?;
    Ok((range, word(&bytes, 12)))
}

fn word(bytes: &[u8; 16], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Parses the next chain of `queue` as a request to a disk of `capacity` sectors
/// and says whether it is one: for benches and fuzzers.
#[cfg(any(test, feature = "testing"))]
pub fn parse_for_tests(queue: &mut crate::virtio::DeviceQueue, capacity: u64) -> Option<bool> {
    let limits = Limits {
        capacity,
        read_only: false,
        size_max: MAX_BYTES,
    };
    let memory = std::sync::Arc::clone(&queue.memory);
    let chain = queue.queue.pop(&memory).ok()??;
    let parsed = Chain::parse(&memory, chain).and_then(|chain| Request::parse(chain, &limits));
    Some(parsed.is_ok())
}
