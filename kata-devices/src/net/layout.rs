//! Numbers of the specification (virtio 1.2 §5.1).

use virtio_bindings::virtio_net as b;

use crate::virtio::QUEUE_FEATURES;

/// Bytes of the header of each frame: `virtio_net_hdr_v1` (§5.1.6).
pub(super) const HEADER_LEN: usize = 12;

/// Where the header says of how many buffers a frame is.
pub(super) const NUM_BUFFERS: usize = 10;

/// The largest frame, with its header: one of segmentation offload (§5.1.6.3.1).
pub(super) const MAX_FRAME: usize = 65_550 + HEADER_LEN;

/// What the guest may leave to the host.
const HOST_OFFLOADS: [u32; 5] = [
    b::VIRTIO_NET_F_CSUM,
    b::VIRTIO_NET_F_HOST_TSO4,
    b::VIRTIO_NET_F_HOST_TSO6,
    b::VIRTIO_NET_F_HOST_ECN,
    b::VIRTIO_NET_F_HOST_UFO,
];

/// What the host may leave to the guest, and the tap's flag for it.
const GUEST_OFFLOADS: [(u32, u32); 5] = [
    (b::VIRTIO_NET_F_GUEST_CSUM, 1),
    (b::VIRTIO_NET_F_GUEST_TSO4, 2),
    (b::VIRTIO_NET_F_GUEST_TSO6, 4),
    (b::VIRTIO_NET_F_GUEST_ECN, 8),
    (b::VIRTIO_NET_F_GUEST_UFO, 16),
];

/// The features of a card.
pub(super) fn offered(offloads: bool, mac: bool, mtu: bool, pairs: u16) -> u64 {
    let mut bits = vec![
        b::VIRTIO_NET_F_MRG_RXBUF,
        b::VIRTIO_NET_F_STATUS,
        b::VIRTIO_NET_F_CTRL_VQ,
    ];
    if offloads {
        bits.extend(HOST_OFFLOADS);
        bits.extend(GUEST_OFFLOADS.map(|(feature, _)| feature));
    }
    let optional = [
        (mac, b::VIRTIO_NET_F_MAC),
        (mtu, b::VIRTIO_NET_F_MTU),
        (pairs > 1, b::VIRTIO_NET_F_MQ),
    ];
    bits.extend(optional.iter().filter(|(on, _)| *on).map(|(_, bit)| *bit));
    bits.iter().fold(QUEUE_FEATURES, |all, bit| all | 1 << bit)
}

/// The features of a card over a tap that has an address and no control queue.
pub(crate) fn offered_without_control() -> u64 {
    offered(true, true, false, 1) & !(1 << b::VIRTIO_NET_F_CTRL_VQ)
}

/// What a tap may leave to a guest that chose `features` (`TUNSETOFFLOAD`).
pub(super) fn tap_offloads(features: u64) -> u32 {
    GUEST_OFFLOADS
        .iter()
        .filter(|(feature, _)| features & 1 << feature != 0)
        .fold(0, |flags, (_, flag)| flags | flag)
}

pub(super) fn has(features: u64, bit: u32) -> bool {
    features & 1 << bit != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_does_what_the_guest_can_take() {
        assert_eq!(tap_offloads(0), 0);
        assert_eq!(tap_offloads(1 << 1 | 1 << 7), 3);
        assert_eq!(tap_offloads(u64::MAX), 31);
    }

    #[test]
    fn what_is_not_there_is_not_offered() {
        let plain = offered(false, false, false, 1);
        assert_eq!(plain & !QUEUE_FEATURES, 1 << 15 | 1 << 16 | 1 << 17);
        assert!(has(offered(true, true, true, 2), b::VIRTIO_NET_F_MQ));
    }
}
