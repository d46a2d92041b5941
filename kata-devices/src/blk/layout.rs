//! Numbers of the specification (virtio 1.2 §5.2).

use virtio_bindings::virtio_blk as b;

/// Bytes of a sector, whatever the disk's block size.
pub(super) const SECTOR: u64 = 512;

/// Bytes of a request's header.
pub(super) const HEADER_LEN: usize = 16;

/// Bytes of a serial number.
pub(super) const ID_LEN: usize = b::VIRTIO_BLK_ID_BYTES as usize;

/// Bytes of the description of a range to be discarded or zeroed.
pub(super) const RANGE_LEN: usize = 16;

pub(super) const READ: u32 = b::VIRTIO_BLK_T_IN;
pub(super) const WRITE: u32 = b::VIRTIO_BLK_T_OUT;
pub(super) const FLUSH: u32 = b::VIRTIO_BLK_T_FLUSH;
pub(super) const GET_ID: u32 = b::VIRTIO_BLK_T_GET_ID;
pub(super) const DISCARD: u32 = b::VIRTIO_BLK_T_DISCARD;
pub(super) const WRITE_ZEROES: u32 = b::VIRTIO_BLK_T_WRITE_ZEROES;

/// A range may be given back to the host.
pub(super) const UNMAP: u32 = 1;

/// The most pieces of a request's data: a queue's worth, but for header and status.
pub(super) const SEG_MAX: u32 = 254;

/// Bytes of the largest piece.
pub(super) const SIZE_MAX: u32 = 64 << 10;

/// Bytes of the largest request, zeroes to be written included.
pub(super) const MAX_BYTES: u64 = SEG_MAX as u64 * SIZE_MAX as u64;

/// Sectors of the largest discard: 64 MiB.
pub(super) const MAX_DISCARD: u32 = 64 << 11;

/// Sectors of the largest range of zeroes. Some disks have them written.
#[expect(clippy::cast_possible_truncation, reason = "16 MiB have few sectors")]
pub(super) const MAX_ZEROES: u32 = (MAX_BYTES / SECTOR) as u32;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = 0,
    Failed = 1,
    Unsupported = 2,
}

/// The configuration space (§5.2.4), up to what write zeroes need.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ConfigSpace {
    /// Sectors.
    pub(super) capacity: u64,
    /// Bytes of a logical block.
    pub(super) block_size: u32,
    /// Logical blocks of a physical one, as a power of two.
    pub(super) physical_exponent: u8,
    /// Logical blocks before the first aligned one.
    pub(super) alignment_offset: u8,
    /// Logical blocks that are written without a cost.
    pub(super) min_io: u16,
    /// Logical blocks that are best written at once.
    pub(super) opt_io: u32,
    pub(super) queues: u16,
    /// Sectors to which discards are best aligned.
    pub(super) discard_alignment: u32,
}

impl ConfigSpace {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(60);
        bytes.extend(self.capacity.to_le_bytes());
        bytes.extend(SIZE_MAX.to_le_bytes());
        bytes.extend(SEG_MAX.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.block_size.to_le_bytes());
        bytes.extend([self.physical_exponent, self.alignment_offset]);
        bytes.extend(self.min_io.to_le_bytes());
        bytes.extend(self.opt_io.to_le_bytes());
        bytes.extend([1, 0]);
        bytes.extend(self.queues.to_le_bytes());
        bytes.extend(MAX_DISCARD.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(self.discard_alignment.to_le_bytes());
        bytes.extend(MAX_ZEROES.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend([1, 0, 0, 0]);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_lies_as_the_specification_says() {
        let bytes = ConfigSpace {
            capacity: 0x0102_0304,
            block_size: 4096,
            queues: 4,
            ..ConfigSpace::default()
        }
        .to_bytes();
        assert_eq!(bytes.len(), 60);
        assert_eq!(bytes[..4], [4, 3, 2, 1]);
        assert_eq!(bytes[8..12], 65536u32.to_le_bytes());
        assert_eq!(bytes[12], 254);
        assert_eq!(bytes[20..24], 4096u32.to_le_bytes());
        assert_eq!(bytes[34], 4);
        assert_eq!(bytes[36..40], 131_072u32.to_le_bytes());
        assert_eq!(bytes[48..52], 32_512u32.to_le_bytes());
        assert_eq!((bytes[40], bytes[52]), (1, 1));
    }
}
