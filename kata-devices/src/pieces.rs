//! Scattered guest memory, handled as if it were in one piece.

use vm_memory::VolatileSlice;

/// Bytes in all.
pub(crate) fn length(pieces: &[VolatileSlice<'_>]) -> usize {
    pieces.iter().map(VolatileSlice::len).sum()
}

/// Fills `bytes` from the front; `None` when there are fewer.
pub(crate) fn copy_to(pieces: &[VolatileSlice<'_>], bytes: &mut [u8]) -> Option<()> {
    let mut at = 0;
    for piece in pieces {
        if at == bytes.len() {
            break;
        }
        at += piece.copy_to(&mut bytes[at..]);
    }
    (at == bytes.len()).then_some(())
}

/// Writes `bytes` at the front; says how many found room.
pub(crate) fn copy_from(pieces: &[VolatileSlice<'_>], bytes: &[u8]) -> usize {
    let mut at = 0;
    for piece in pieces {
        let count = piece.len().min(bytes.len() - at);
        piece.copy_from(&bytes[at..at + count]);
        at += count;
        if at == bytes.len() {
            break;
        }
    }
    at
}

/// Takes the first `count` bytes away, or all if there are fewer.
pub(crate) fn skip(pieces: &mut Vec<VolatileSlice<'_>>, mut count: usize) {
    let mut whole = 0;
    for piece in pieces.iter_mut() {
        if count < piece.len() {
            *piece = piece.offset(count).expect("the piece is longer");
            break;
        }
        count -= piece.len();
        whole += 1;
    }
    pieces.drain(..whole);
}

/// Takes away what lies after the first `length` bytes; `None` when there are fewer.
pub(crate) fn truncate(pieces: &mut Vec<VolatileSlice<'_>>, length: usize) -> Option<()> {
    let mut left = length;
    let mut kept = 0;
    for piece in pieces.iter_mut() {
        if left == 0 {
            break;
        }
        kept += 1;
        if left < piece.len() {
            *piece = piece.subslice(0, left).expect("the piece is longer");
        }
        left -= piece.len().min(left);
    }
    pieces.truncate(kept);
    (left == 0).then_some(())
}

/// Takes the last `count` bytes away and gives them; `None` when there are fewer.
pub(crate) fn split_back<'m>(
    pieces: &mut Vec<VolatileSlice<'m>>,
    count: usize,
) -> Option<Vec<VolatileSlice<'m>>> {
    let front = length(pieces).checked_sub(count)?;
    let mut back = pieces.clone();
    skip(&mut back, front);
    truncate(pieces, front)?;
    Some(back)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap};

    fn scattered(memory: &GuestMemoryMmap<()>) -> Vec<VolatileSlice<'_>> {
        [(0x10, 3), (0x40, 5), (0x80, 2)]
            .map(|(at, length)| memory.get_slice(GuestAddress(at), length).unwrap())
            .to_vec()
    }

    fn text(pieces: &[VolatileSlice<'_>]) -> Vec<u8> {
        let mut bytes = vec![0; length(pieces)];
        copy_to(pieces, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn pieces_are_written_cut_and_read_as_one() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let mut pieces = scattered(&memory);
        assert_eq!(copy_from(&pieces, b"0123456789and more"), 10);
        let back = split_back(&mut pieces, 3).unwrap();
        assert_eq!(
            (text(&pieces), text(&back)),
            (b"0123456".to_vec(), b"789".to_vec())
        );
        skip(&mut pieces, 4);
        assert_eq!(text(&pieces), b"456");
        truncate(&mut pieces, 1).unwrap();
        assert_eq!(text(&pieces), b"4");
        assert!(truncate(&mut pieces, 2).is_none());
        assert!(split_back(&mut pieces, 2).is_none());
        assert!(copy_to(&pieces, &mut [0; 2]).is_none());
        skip(&mut pieces, 9);
        assert!(pieces.is_empty());
    }
}
