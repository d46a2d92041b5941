//! Messages of any bytes, read as those of the kernel are.

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use crate::rtnl::parse;

/// `RTM_NEWLINK`, `RTM_NEWADDR`, `RTM_NEWROUTE`, `RTM_NEWNEIGH`, `RTM_NEWRULE`, with
/// the bytes that come before their attributes.
const KINDS: [(u16, usize); 5] = [(16, 16), (20, 8), (24, 12), (28, 12), (32, 12)];

/// An attribute: its kind and what is in it, of lengths that attributes have.
fn attribute() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![
        Just(1usize),
        Just(2),
        Just(4),
        Just(8),
        Just(16),
        0..40usize
    ];
    let kind = prop_oneof![8 => 0..32u16, 1 => any::<u16>()];
    let said = prop_oneof![9 => Just(0u16), 1 => 0..64u16];
    (kind, length, said).prop_flat_map(|(kind, length, said)| {
        prop::collection::vec(any::<u8>(), length).prop_map(move |mut value| {
            let length = u16::try_from(value.len() + 4).unwrap();
            let mut bytes = length.wrapping_add(said).to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.append(&mut value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        })
    })
}

/// Families that there are are likelier than others.
fn head(length: usize) -> impl Strategy<Value = Vec<u8>> {
    let family = prop_oneof![4 => Just(2u8), 4 => Just(10), 1 => any::<u8>()];
    (family, prop::collection::vec(0..40u8, length - 1)).prop_map(|(family, rest)| {
        let mut bytes = vec![family];
        bytes.extend(rest);
        bytes
    })
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(&KINDS[..]).prop_flat_map(|(kind, length)| {
        let attributes = prop::collection::vec(attribute(), 0..8);
        (head(length), attributes).prop_map(move |(head, attributes)| {
            let body = [head, attributes.concat()].concat();
            let length = u32::try_from(16 + body.len()).unwrap();
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(body);
            bytes
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn whatever_the_kernel_tells_is_survived(bytes in message()) {
        super::hostile::read(&bytes);
    }
}

#[test]
fn the_messages_are_mostly_messages() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let read = (0..500).filter(|_| {
        let bytes = message().new_tree(&mut runner).unwrap().current();
        parse(&bytes).is_ok()
    });
    let read = read.count();
    assert!(read > 100, "{read} of 500");
}
