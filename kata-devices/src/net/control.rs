//! The control queue: how many queue pairs the driver uses (virtio 1.2 §5.1.6.5).
//!
//! Guest-controlled: the command as a whole. Pure.

use virtio_bindings::virtio_net as b;
use vm_memory::GuestAddress;

use crate::pieces;
use crate::virtio::{Chain, ChainError};

/// What the driver asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// To use so many queue pairs.
    Pairs(u16),
    /// Something that this card does not do.
    Unknown,
}

/// A command, and where its answer goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Control {
    pub(super) head: u16,
    pub(super) answer: GuestAddress,
    pub(super) command: Command,
}

pub(super) const OK: u8 = 0;
pub(super) const FAILED: u8 = 1;

impl Control {
    /// The command in `chain`, for a card of `pairs` queue pairs.
    pub(super) fn parse(chain: &Chain<'_>, pairs: u16) -> Result<Self, ChainError> {
        let answer = chain.last_writable.ok_or(ChainError::Short("an answer"))?;
        let mut head = [0; 2];
        pieces::copy_to(&chain.readable, &mut head).ok_or(ChainError::Short("a command"))?;
        let set_pairs = [b::VIRTIO_NET_CTRL_MQ, b::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET];
        let mut bytes = [0; 4];
        let whole =
            chain.readable_len() == 4 && pieces::copy_to(&chain.readable, &mut bytes).is_some();
        let wanted = u16::from_le_bytes([bytes[2], bytes[3]]);
        let known = whole && head.map(u32::from) == set_pairs && (1..=pairs).contains(&wanted);
        Ok(Self {
            head: chain.head,
            answer,
            command: if known {
                Command::Pairs(wanted)
            } else {
                Command::Unknown
            },
        })
    }
}
