//! Chains as requests to a disk: parsing alone.
#![no_main]

use kata_devices::blk::parse_for_tests;
use kata_devices::testing::{Arena, DriverQueue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<(u16, u16, u8, u8)>, Vec<u8>, u64)| {
    let (descriptors, header, capacity) = input;
    let mut arena = Arena::new();
    let place = arena.place(&header);
    let mut queue = DriverQueue::new(&mut arena, 16, false);
    for (at, (offset, length, flags, next)) in (0..16).zip(descriptors) {
        let address = place + u64::from(offset % 0x4000);
        let descriptor = (
            address,
            u32::from(length),
            u16::from(flags % 8),
            u16::from(next % 18),
        );
        queue.describe(at, descriptor);
    }
    queue.offer(0);
    parse_for_tests(&mut queue.device_queue(), capacity >> 9);
});
