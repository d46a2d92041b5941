//! Bytes of the guest that the host does not take yet.

use vm_memory::VolatileSlice;

/// A queue of bytes that costs nothing while it is empty. Its owner bounds it.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    /// What lies before has been taken.
    start: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// The bytes, oldest first.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Appends what `pieces` hold after their first `skip` bytes.
    pub(super) fn append(&mut self, pieces: &[VolatileSlice<'_>], mut skip: usize) {
        self.compact();
        for piece in pieces {
            let skipped = skip.min(piece.len());
            skip -= skipped;
            let rest = piece
                .offset(skipped)
                .expect("no more is skipped than is there");
            let at = self.bytes.len();
            self.bytes.resize(at + rest.len(), 0);
            rest.copy_to(&mut self.bytes[at..]);
        }
    }

    /// Takes the oldest `count` bytes away.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.is_empty() {
            *self = Self::default();
        }
    }

    fn compact(&mut self) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_the_order_in_which_they_went_in() {
        let (mut first, mut second) = (*b"abc", *b"defg");
        let pieces = [
            VolatileSlice::from(&mut first[..]),
            VolatileSlice::from(&mut second[..]),
        ];
        let mut backlog = Backlog::default();
        backlog.append(&pieces, 4);
        assert_eq!(backlog.bytes(), b"efg");
        backlog.consume(1);
        backlog.append(&pieces, 0);
        assert_eq!(backlog.bytes(), b"fgabcdefg");
        backlog.consume(9);
        assert!(backlog.is_empty());
        assert_eq!(backlog.bytes.capacity(), 0);
    }
}
