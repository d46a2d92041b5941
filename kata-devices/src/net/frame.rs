//! What of a frame is checked before the host sees it. Pure.

use vm_memory::VolatileSlice;

use super::layout::{HEADER_LEN, MAX_FRAME};
use crate::pieces;
use crate::virtio::{Chain, ChainError};

/// Bytes of an Ethernet header: less is no frame.
const MIN_ETHERNET: usize = 14;

/// The frame of the guest in `chain`, with its header; `Ok(None)` when it is one
/// that no wire would take.
pub(super) fn outgoing(chain: Chain<'_>) -> Result<Option<Vec<VolatileSlice<'_>>>, ChainError> {
    if !chain.writable.is_empty() {
        return Err(ChainError::Disorder);
    }
    let length = pieces::length(&chain.readable);
    if length < HEADER_LEN {
        return Err(ChainError::Short("a header"));
    }
    let fits = (HEADER_LEN + MIN_ETHERNET..=MAX_FRAME).contains(&length);
    Ok(fits.then_some(chain.readable))
}
