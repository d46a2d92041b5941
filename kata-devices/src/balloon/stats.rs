//! What a guest tells of its memory (virtio 1.2 §5.5.6.3). Pure.

/// Statistics of a guest. `None` is what it did not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BalloonStats {
    /// Bytes swapped in.
    pub swapped_in: Option<u64>,
    /// Bytes swapped out.
    pub swapped_out: Option<u64>,
    /// Page faults that needed I/O.
    pub major_faults: Option<u64>,
    /// Page faults that did not.
    pub minor_faults: Option<u64>,
    /// Bytes not used for anything.
    pub free: Option<u64>,
    /// Bytes of memory in all.
    pub total: Option<u64>,
    /// Bytes that can be had without swapping.
    pub available: Option<u64>,
    /// Bytes of files kept in memory.
    pub caches: Option<u64>,
}

/// Bytes of one statistic: a tag and a value.
const ENTRY: usize = 10;

/// The most entries that are read: more than there are tags.
pub(super) const MAX_BYTES: usize = 64 * ENTRY;

impl BalloonStats {
    /// What the bytes tell. Unknown tags are left out.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut stats = Self::default();
        for entry in bytes.chunks_exact(ENTRY) {
            let (tag, value) = entry.split_at(2);
            let value = <[u8; 8]>::try_from(value).map(u64::from_le_bytes).ok();
            let field = match u16::from_le_bytes([tag[0], tag[1]]) {
                0 => &mut stats.swapped_in,
                1 => &mut stats.swapped_out,
                2 => &mut stats.major_faults,
                3 => &mut stats.minor_faults,
                4 => &mut stats.free,
                5 => &mut stats.total,
                6 => &mut stats.available,
                7 => &mut stats.caches,
                _ => continue,
            };
            *field = value;
        }
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_tags_are_told_and_others_left_out() {
        let mut bytes = vec![4, 0, 1, 2, 0, 0, 0, 0, 0, 0];
        bytes.extend([99, 0, 1, 1, 1, 1, 1, 1, 1, 1]);
        bytes.extend([5, 0, 9]);
        let stats = BalloonStats::parse(&bytes);
        assert_eq!(stats.free, Some(513));
        assert_eq!(stats.total, None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_statistics(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            BalloonStats::parse(&bytes);
        }
    }
}
