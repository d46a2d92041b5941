//! The last bytes of an endless stream.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How much of a guest's console is kept.
pub(crate) const CONSOLE_TAIL: usize = 64 << 10;

/// A ring that keeps the last bytes written to it, whatever is written.
///
/// The bytes come from the guest or from a monitor: nothing is assumed of them.
#[derive(Debug)]
pub(crate) struct Tail {
    limit: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: VecDeque<u8>,
    first: Option<Instant>,
}

impl Tail {
    /// A ring of at most `limit` bytes; none are taken before they are needed.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            kept: Mutex::default(),
        }
    }

    /// Appends bytes, forgetting the oldest ones beyond the limit.
    pub(crate) fn push(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut kept = self.lock();
        kept.first.get_or_insert_with(Instant::now);
        let bytes = &bytes[bytes.len().saturating_sub(self.limit)..];
        let surplus = (kept.bytes.len() + bytes.len()).saturating_sub(self.limit);
        kept.bytes.drain(..surplus);
        kept.bytes.extend(bytes);
    }

    /// What is kept, oldest first.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.iter().copied().collect()
    }

    /// When the first byte ever came.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.lock().first
    }

    /// Whether what is kept has `needle` in it.
    pub(crate) fn contains(&self, needle: &[u8]) -> bool {
        let mut kept = self.lock();
        let bytes = kept.bytes.make_contiguous();
        bytes
            .windows(needle.len().max(1))
            .any(|window| window == needle)
    }

    /// What is kept, as text on one line for an error message.
    pub(crate) fn text(&self) -> String {
        let bytes = self.bytes();
        let text = String::from_utf8_lossy(&bytes);
        text.lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join("; ")
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Nothing in here panics half-way through a change.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_oldest_bytes_go_first() {
        let tail = Tail::new(4);
        tail.push(b"abc");
        tail.push(b"de");
        assert_eq!(tail.bytes(), b"bcde");
    }

    #[test]
    fn one_write_beyond_the_limit_keeps_its_end() {
        let tail = Tail::new(4);
        tail.push(b"abcdefgh");
        assert_eq!(tail.bytes(), b"efgh");
    }

    #[test]
    fn the_first_byte_is_dated_once() {
        let tail = Tail::new(4);
        assert_eq!(tail.first(), None);
        tail.push(b"a");
        let first = tail.first();
        tail.push(b"b");
        assert!(first.is_some());
        assert_eq!(tail.first(), first);
    }

    #[test]
    fn text_joins_the_lines_that_say_something() {
        let tail = Tail::new(64);
        tail.push(b"one\r\n\r\n two\xff\n");
        assert_eq!(tail.text(), "one; two\u{fffd}");
    }

    proptest! {
        #[test]
        fn a_tail_is_the_end_of_all_that_was_pushed(
            limit in 1usize..64,
            writes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..20),
        ) {
            let tail = Tail::new(limit);
            let mut all = Vec::new();
            for write in &writes {
                tail.push(write);
                all.extend_from_slice(write);
            }
            prop_assert_eq!(tail.bytes(), &all[all.len().saturating_sub(limit)..]);
        }
    }
}
