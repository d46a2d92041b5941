//! Filling the guest's receive buffers.
//!
//! Guest-controlled: the chains. One that has no room for a header and a byte,
//! or that the device may not write, is counted and given back empty.

use std::io;

use vm_memory::VolatileSlice;

use super::device::{RxData, RxSink, gather};
use super::packet::{HEADER_LEN, Header};
use crate::pieces;
use crate::virtio::{GuestMemory, QueueError, VirtQueue};
use crate::volatile_io::MAX_PIECES;

/// A receive buffer, taken from the ring.
struct Buffer<'m> {
    head: u16,
    /// All of it: the header goes first.
    pieces: Vec<VolatileSlice<'m>>,
    /// Bytes of payload that fit.
    room: usize,
}

/// The receive queue, for one round of transmission.
pub(super) struct RxRing<'a, 'm> {
    memory: &'m GuestMemory,
    queue: &'a mut VirtQueue,
    malformed: usize,
    error: Option<QueueError>,
    /// Buffers whose vectors are used again.
    spare: Vec<Vec<VolatileSlice<'m>>>,
    taken: Vec<Buffer<'m>>,
    payload: Vec<VolatileSlice<'m>>,
}

impl<'a, 'm> RxRing<'a, 'm> {
    pub(super) fn new(memory: &'m GuestMemory, queue: &'a mut VirtQueue) -> Self {
        Self {
            memory,
            queue,
            malformed: 0,
            error: None,
            spare: Vec::new(),
            taken: Vec::new(),
            payload: Vec::with_capacity(MAX_PIECES),
        }
    }

    /// The number of malformed chains, or what is wrong with the queue.
    pub(super) fn finish(self) -> Result<usize, QueueError> {
        self.error.map_or(Ok(self.malformed), Err)
    }

    /// Takes a buffer; `None` when there is none.
    fn take(&mut self) -> Option<Buffer<'m>> {
        loop {
            let chain = match self.queue.pop(self.memory) {
                Ok(chain) => chain?,
                Err(error) => {
                    self.error = Some(error);
                    return None;
                }
            };
            let head = chain.head_index();
            let mut pieces = self.spare.pop().unwrap_or_default();
            pieces.clear();
            let mut valid = true;
            for descriptor in chain {
                valid = descriptor.is_write_only()
                    && gather(
                        self.memory,
                        descriptor.addr(),
                        descriptor.len(),
                        &mut pieces,
                    )
                    .is_some();
                if !valid {
                    break;
                }
            }
            let length = pieces::length(&pieces);
            if valid && length > HEADER_LEN {
                return Some(Buffer {
                    head,
                    pieces,
                    room: length - HEADER_LEN,
                });
            }
            self.spare.push(pieces);
            if !self.taken.is_empty() {
                // Taken again, as the first, when its turn comes.
                self.queue.unpop(1);
                return None;
            }
            self.malformed += 1;
            self.complete(head, 0);
        }
    }

    /// Takes up to `buffers` with room for `limit` bytes, as far as there are any.
    fn take_many(&mut self, limit: usize, buffers: usize) -> usize {
        self.payload.clear();
        let mut room = 0;
        while self.taken.len() < buffers && room < limit {
            let Some(buffer) = self.take() else { break };
            if !append_after_header(&buffer.pieces, &mut self.payload) {
                self.spare.push(buffer.pieces);
                self.queue.unpop(1);
                break;
            }
            room += buffer.room;
            self.taken.push(buffer);
        }
        let room = room.min(limit);
        pieces::truncate(&mut self.payload, room).expect("there is at least that much room");
        room
    }

    /// Makes packets of `bytes` in the buffers taken, and gives back the others.
    fn give(&mut self, header: &Header, mut bytes: usize) {
        let mut unused = 0;
        for buffer in std::mem::take(&mut self.taken) {
            if bytes == 0 {
                unused += 1;
            } else {
                let count = bytes.min(buffer.room);
                bytes -= count;
                self.put(&buffer, header, count);
            }
            self.spare.push(buffer.pieces);
        }
        self.queue.unpop(unused);
    }

    fn put(&mut self, buffer: &Buffer<'m>, header: &Header, payload: usize) {
        let payload = u32::try_from(payload).expect("a chain is shorter than 4 GiB");
        let bytes = Header {
            len: payload,
            ..*header
        }
        .to_bytes();
        let mut rest = &bytes[..];
        for piece in &buffer.pieces {
            let count = piece.len().min(rest.len());
            piece.copy_from(&rest[..count]);
            rest = &rest[count..];
            if rest.is_empty() {
                break;
            }
        }
        let header = u32::try_from(HEADER_LEN).expect("44");
        self.complete(buffer.head, header.saturating_add(payload));
    }

    fn complete(&mut self, head: u16, written: u32) {
        if let Err(error) = self.queue.complete(self.memory, head, written) {
            self.error = Some(error);
        }
    }
}

/// Appends what follows the header, unless that are too many pieces.
fn append_after_header<'m>(
    pieces: &[VolatileSlice<'m>],
    payload: &mut Vec<VolatileSlice<'m>>,
) -> bool {
    let before = payload.len();
    let mut header = HEADER_LEN;
    for piece in pieces {
        let skipped = header.min(piece.len());
        header -= skipped;
        if skipped == piece.len() {
            continue;
        }
        if payload.len() == MAX_PIECES {
            payload.truncate(before);
            return false;
        }
        payload.push(piece.offset(skipped).expect("the piece is longer"));
    }
    true
}

impl RxSink for RxRing<'_, '_> {
    fn control(&mut self, header: &Header) -> bool {
        let Some(buffer) = self.take() else {
            return false;
        };
        self.put(&buffer, header, 0);
        self.spare.push(buffer.pieces);
        true
    }

    fn data(
        &mut self,
        header: &Header,
        limit: usize,
        buffers: usize,
        read: &mut dyn FnMut(&[VolatileSlice<'_>]) -> io::Result<usize>,
    ) -> RxData {
        let room = self.take_many(limit, buffers);
        if room == 0 {
            return RxData::NoBuffer;
        }
        match read(&self.payload) {
            Ok(bytes) => {
                self.give(header, bytes);
                RxData::Read {
                    bytes,
                    filled: bytes == room,
                }
            }
            Err(error) => {
                self.give(header, 0);
                RxData::Failed(error)
            }
        }
    }
}
