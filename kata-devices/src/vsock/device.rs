//! The device: packets from and to the virtqueues.
//!
//! Guest-controlled: the descriptor chains and all that they point at. A chain
//! that holds no packet is counted and given back; a header is read once.

use std::io;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemory as _, VolatileSlice};

use super::packet::{HEADER_LEN, HOST_CID, Header, Operation, TYPE_STREAM};
use super::rx::RxRing;
use crate::limit::Offences;
use crate::pieces;
use crate::virtio::{GuestMemory, QueueError, VirtQueue};
use crate::volatile_io::MAX_PIECES;

/// The queue of buffers that the device fills.
pub const RX_QUEUE: usize = 0;
/// The queue of packets that the guest sends.
pub const TX_QUEUE: usize = 1;

/// Packets taken from the guest before the host's have their turn.
const TX_BUDGET: usize = 64;

/// Turns of both directions before others on the thread have theirs.
const ROUNDS: usize = 64;

/// What stands behind the device: takes the guest's packets and has packets for
/// the guest.
pub trait Channel {
    /// Whether it can take a packet now. When not, it can after
    /// [`transmit`](Self::transmit) sent something.
    fn accepts(&self) -> bool;

    /// Takes a packet of the guest. Its bytes must be copied or sent before the
    /// call returns.
    fn receive(&mut self, header: &Header, payload: &[VolatileSlice<'_>]);

    /// Whether it has packets for the guest.
    fn has_packets(&self) -> bool;

    /// Hands packets to the guest until it has none or `sink` has no buffers.
    fn transmit(&mut self, sink: &mut dyn RxSink);

    /// The guest's driver has set up the queues, or takes them away. Streams stay:
    /// a machine that is paused loses its queues for a while.
    fn set_active(&mut self, active: bool);

    /// The guest's driver starts anew: all streams end.
    fn reset(&mut self);
}

/// Buffers of the guest for packets of the host.
pub trait RxSink {
    /// Puts a packet without payload into a buffer; `false` when there is none.
    fn control(&mut self, header: &Header) -> bool;

    /// Lets `read` fill up to `buffers` buffers with at most `limit` bytes in
    /// all, and makes packets of it, with `header` but for the length.
    fn data(
        &mut self,
        header: &Header,
        limit: usize,
        buffers: usize,
        read: &mut dyn FnMut(&[VolatileSlice<'_>]) -> io::Result<usize>,
    ) -> RxData;
}

/// What came of [`RxSink::data`].
#[derive(Debug)]
pub enum RxData {
    /// The guest has no buffers.
    NoBuffer,
    /// So many bytes were read; 0 is the end of the stream, of which no packet
    /// was made.
    Read {
        /// The number of bytes.
        bytes: usize,
        /// Whether there was no room for more.
        filled: bool,
    },
    /// `read` failed; no packet was made.
    Failed(io::Error),
}

/// What a device has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Packets that the guest sent.
    pub packets: u64,
    /// Descriptor chains that hold no valid packet, and broken queues.
    pub malformed: u64,
}

/// A virtio-vsock device over some `C`, without a transport.
#[derive(Debug)]
pub struct Device<C> {
    guest_cid: u64,
    channel: C,
    packets: u64,
    malformed: Offences,
    active: bool,
}

impl<C: Channel> Device<C> {
    /// The features that it offers.
    pub const FEATURES: u64 =
        1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

    /// A device of the guest `guest_cid`.
    pub fn new(guest_cid: u64, channel: C) -> Self {
        Self {
            guest_cid,
            channel,
            packets: 0,
            malformed: Offences::default(),
            active: false,
        }
    }

    /// The configuration space: the guest's context id (virtio 1.2 §5.10.4).
    #[must_use]
    pub fn config_space(&self) -> [u8; 8] {
        self.guest_cid.to_le_bytes()
    }

    /// What is behind it.
    pub fn channel_mut(&mut self) -> &mut C {
        &mut self.channel
    }

    /// What is behind it.
    #[must_use]
    pub fn channel(&self) -> &C {
        &self.channel
    }

    /// What it has counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            packets: self.packets,
            malformed: self.malformed.total(),
        }
    }

    /// Moves packets both ways until there are none, or until others should have
    /// their turn; then it answers `true` and wants to be called again.
    pub fn process(
        &mut self,
        memory: &GuestMemory,
        rx: &mut VirtQueue,
        tx: &mut VirtQueue,
    ) -> bool {
        if !rx.is_usable() || !tx.is_usable() {
            self.set_active(false);
            return false;
        }
        self.set_active(true);
        for _ in 0..ROUNDS {
            let round = self.take_packets(memory, tx).and_then(|more_from_guest| {
                Ok(self.give_packets(memory, rx)? || (more_from_guest && self.channel.accepts()))
            });
            match round {
                Ok(true) => {}
                Ok(false) => return false,
                Err(error) => {
                    self.complain(&error.to_string());
                    return false;
                }
            }
        }
        true
    }

    /// Says whether the queues are there; [`process`](Self::process) does when it
    /// is called with them.
    pub fn set_active(&mut self, active: bool) {
        if active != self.active {
            self.active = active;
            self.channel.set_active(active);
        }
    }

    /// The driver starts anew: all streams end.
    pub fn reset(&mut self) {
        self.set_active(false);
        self.channel.reset();
    }

    /// `true` when the guest has more packets.
    fn take_packets(
        &mut self,
        memory: &GuestMemory,
        tx: &mut VirtQueue,
    ) -> Result<bool, QueueError> {
        tx.disable_kicks(memory)?;
        let mut pieces = Vec::with_capacity(MAX_PIECES);
        let mut budget = TX_BUDGET;
        let more = loop {
            if budget == 0 || !self.channel.accepts() {
                break true;
            }
            let Some(chain) = tx.pop(memory)? else {
                if tx.enable_kicks(memory)? {
                    continue;
                }
                break false;
            };
            budget -= 1;
            let head = chain.head_index();
            match parse(memory, chain, &mut pieces) {
                Some(header) => self.dispatch(&header, &pieces),
                None => self.complain("not a packet"),
            }
            tx.complete(memory, head, 0)?;
        };
        tx.notify(memory)?;
        Ok(more)
    }

    /// `true` when there is more to give and buffers for it.
    fn give_packets(
        &mut self,
        memory: &GuestMemory,
        rx: &mut VirtQueue,
    ) -> Result<bool, QueueError> {
        if !self.channel.has_packets() {
            return Ok(false);
        }
        rx.disable_kicks(memory)?;
        let mut ring = RxRing::new(memory, rx);
        self.channel.transmit(&mut ring);
        let malformed = ring.finish()?;
        for _ in 0..malformed {
            self.complain("not a receive buffer");
        }
        rx.notify(memory)?;
        // What is left waits for buffers.
        Ok(self.channel.has_packets() && rx.enable_kicks(memory)?)
    }

    fn dispatch(&mut self, header: &Header, payload: &[VolatileSlice<'_>]) {
        self.packets += 1;
        if header.src_cid != self.guest_cid {
            return self.complain("a packet in another's name");
        }
        let stray = header.dst_cid != HOST_CID || header.kind != TYPE_STREAM;
        if stray && header.operation == Some(Operation::Reset) {
            return;
        }
        if stray {
            // Answered as a reset of a stream that there is not.
            let unknown = Header {
                operation: None,
                ..*header
            };
            return self.channel.receive(&unknown, &[]);
        }
        self.channel.receive(header, payload);
    }

    fn complain(&self, what: &str) {
        if let Some(total) = self.malformed.count() {
            log::warn!(guest_cid = self.guest_cid, total; "vsock: {what}");
        }
    }
}

/// Reads the header of the packet in `chain`, and gathers its payload.
fn parse<'m>(
    memory: &'m GuestMemory,
    chain: DescriptorChain<&'m GuestMemory>,
    pieces: &mut Vec<VolatileSlice<'m>>,
) -> Option<Header> {
    pieces.clear();
    for descriptor in chain {
        if descriptor.is_write_only() {
            return None;
        }
        gather(memory, descriptor.addr(), descriptor.len(), pieces)?;
    }
    let mut bytes = [0; HEADER_LEN];
    pieces::copy_to(pieces, &mut bytes)?;
    let header = Header::from_bytes(&bytes);
    pieces::skip(pieces, HEADER_LEN);
    pieces::truncate(pieces, usize::try_from(header.len).ok()?)?;
    Some(header)
}

/// Appends the memory at `address`; `None` when it is none, or there are too many pieces.
pub(super) fn gather<'m>(
    memory: &'m GuestMemory,
    address: vm_memory::GuestAddress,
    length: u32,
    pieces: &mut Vec<VolatileSlice<'m>>,
) -> Option<()> {
    if length == 0 {
        return Some(());
    }
    for piece in memory.get_slices(address, usize::try_from(length).ok()?) {
        if pieces.len() == MAX_PIECES {
            return None;
        }
        pieces.push(piece.ok()?);
    }
    Some(())
}
