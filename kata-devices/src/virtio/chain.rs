//! A descriptor chain, taken apart (virtio 1.2 §2.7.4, §2.7.5).
//!
//! Guest-controlled: all of it. A chain that loops, ends in nowhere, points
//! outside of memory, mixes what is to be read with what is to be written, or
//! has more pieces than anybody needs is an error, and costs a bounded time.

use vm_memory::{Address, GuestAddress, GuestMemory as _, VolatileSlice};

use super::queue::GuestMemory;
use crate::pieces;

/// The most pieces of a chain: more than any driver makes of its largest
/// request, less than a table of the largest size could hold.
pub(crate) const MAX_PIECES: usize = 1026;

/// What is wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChainError {
    /// A link leads nowhere, back, or to a table that is none.
    #[error("the chain has no end")]
    Endless,
    /// A buffer is not in guest memory.
    #[error("a buffer lies outside of guest memory")]
    OutOfRange,
    /// A buffer to be read follows one to be written.
    #[error("a buffer to be read follows one to be written")]
    Disorder,
    /// It has too many pieces.
    #[error("the chain has too many pieces")]
    TooLong,
    /// It lacks what every request of its queue has.
    #[error("the chain has no room for {0}")]
    Short(&'static str),
}

/// The buffers of a chain.
#[derive(Debug, Default)]
pub(crate) struct Chain<'m> {
    /// What gives the chain back.
    pub(crate) head: u16,
    /// What the device may read.
    pub(crate) readable: Vec<VolatileSlice<'m>>,
    /// What the device may write.
    pub(crate) writable: Vec<VolatileSlice<'m>>,
    /// Where the last byte is that the device may write.
    pub(crate) last_writable: Option<GuestAddress>,
}

impl<'m> Chain<'m> {
    /// Takes `chain` apart.
    pub(crate) fn parse(
        memory: &'m GuestMemory,
        chain: virtio_queue::DescriptorChain<&'m GuestMemory>,
    ) -> Result<Self, ChainError> {
        let mut parsed = Self {
            head: chain.head_index(),
            ..Self::default()
        };
        // The iterator ends at the first link that makes no sense: then the last
        // descriptor that it gave has a successor, or there was none at all.
        let mut whole = false;
        for descriptor in chain {
            whole = !descriptor.has_next();
            if descriptor.is_write_only() {
                gather(memory, &descriptor, &mut parsed.writable)?;
                if let Some(last) = descriptor.len().checked_sub(1) {
                    let at = descriptor.addr().checked_add(u64::from(last));
                    parsed.last_writable = at;
                }
            } else if parsed.writable.is_empty() {
                gather(memory, &descriptor, &mut parsed.readable)?;
            } else {
                return Err(ChainError::Disorder);
            }
        }
        if whole {
            Ok(parsed)
        } else {
            Err(ChainError::Endless)
        }
    }

    /// Bytes that the device may read.
    pub(crate) fn readable_len(&self) -> usize {
        pieces::length(&self.readable)
    }

    /// Bytes that the device may write.
    pub(crate) fn writable_len(&self) -> usize {
        pieces::length(&self.writable)
    }
}

fn gather<'m>(
    memory: &'m GuestMemory,
    descriptor: &virtio_queue::desc::split::Descriptor,
    into: &mut Vec<VolatileSlice<'m>>,
) -> Result<(), ChainError> {
    let length = usize::try_from(descriptor.len()).map_err(|_| ChainError::OutOfRange)?;
    if length == 0 {
        return Ok(());
    }
    for piece in memory.get_slices(descriptor.addr(), length) {
        if into.len() == MAX_PIECES {
            return Err(ChainError::TooLong);
        }
        into.push(piece.map_err(|_| ChainError::OutOfRange)?);
    }
    Ok(())
}
