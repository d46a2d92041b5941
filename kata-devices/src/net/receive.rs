//! A frame of the host on its way into buffers of the guest.

use vm_memory::VolatileSlice;

use super::layout::{HEADER_LEN, MAX_FRAME, NUM_BUFFERS};
use crate::pieces;
use crate::virtio::{Chain, GuestMemory, QueueError, VirtQueue};

/// What came of an attempt to deliver a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The guest has it.
    Done,
    /// The guest has too few buffers at the moment.
    NoBuffers,
    /// It does not fit into what the driver agreed to.
    TooLarge,
    /// The driver's buffers are none.
    Malformed,
}

/// The frame that was read last, if the guest has not got it yet.
#[derive(Debug)]
pub(super) struct Incoming {
    bytes: Box<[u8]>,
    length: usize,
}

impl Incoming {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; MAX_FRAME].into_boxed_slice(),
            length: 0,
        }
    }

    /// Where the next frame is read to.
    pub(super) fn buffer(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// A frame of `length` bytes, with its header, is there.
    pub(super) fn set(&mut self, length: usize) {
        self.length = length;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn clear(&mut self) {
        self.length = 0;
    }

    /// Puts the frame into buffers of `queue`: into several if `mergeable`.
    pub(super) fn deliver(
        &mut self,
        queue: &mut VirtQueue,
        memory: &GuestMemory,
        mergeable: bool,
    ) -> Result<Delivery, QueueError> {
        let mut taken: Vec<Buffer<'_>> = Vec::new();
        let mut room = 0;
        while room < self.length {
            if !taken.is_empty() && !mergeable {
                queue.unpop(1);
                return Ok(Delivery::TooLarge);
            }
            let Some(chain) = queue.next(memory)? else {
                // They are taken again when there are more.
                queue.unpop(u16::try_from(taken.len()).unwrap_or(0));
                return Ok(Delivery::NoBuffers);
            };
            let chain = match Chain::parse(memory, chain) {
                Ok(chain) if chain.readable.is_empty() && chain.writable_len() > 0 => chain,
                _ => return Ok(Delivery::Malformed),
            };
            room += chain.writable_len();
            taken.push((chain.head, chain.writable));
            // A driver may offer the same chain again and again; no frame needs
            // more than a ring of them.
            if taken.len() > usize::from(u16::MAX >> 1) {
                return Ok(Delivery::Malformed);
            }
        }
        let first_is_whole = taken
            .first()
            .is_some_and(|(_, p)| pieces::length(p) >= HEADER_LEN);
        if !first_is_whole {
            return Ok(Delivery::Malformed);
        }
        self.fill(&taken, queue, memory)?;
        Ok(Delivery::Done)
    }

    fn fill(
        &mut self,
        taken: &[Buffer<'_>],
        queue: &mut VirtQueue,
        memory: &GuestMemory,
    ) -> Result<(), QueueError> {
        let count = u16::try_from(taken.len()).unwrap_or(u16::MAX);
        self.bytes[NUM_BUFFERS..HEADER_LEN].copy_from_slice(&count.to_le_bytes());
        let mut rest = &self.bytes[..self.length];
        for (head, pieces) in taken {
            let written = pieces::copy_from(pieces, rest);
            rest = &rest[written..];
            queue.complete(memory, *head, u32::try_from(written).unwrap_or(u32::MAX))?;
        }
        self.length = 0;
        Ok(())
    }
}

type Buffer<'m> = (u16, Vec<VolatileSlice<'m>>);
