//! A balloon through real rings on virtio-mmio.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the numbers of a test are small"
)]

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::{Balloon, BalloonConfig, Inflatable};
use crate::epoll::Epoll;
use crate::testing::{Arena, Buffer, DriverQueue, MmioDriver, SECOND_REGION, WRITE};
use crate::virtio::{Driven, ThreadStart};

const PATIENCE: Duration = Duration::from_secs(30);
const VERSION_1: u64 = 1 << 32;
const STATISTICS: u64 = 1 << 1;
const REPORTING: u64 = 1 << 5;

fn balloon(features: u64) -> (MmioDriver, Balloon) {
    let config = BalloonConfig::default();
    let (device, balloon) = config.device(&ThreadStart::default()).unwrap();
    let mut driver = MmioDriver::new(device);
    driver.start(VERSION_1 | features, 32);
    (driver, balloon)
}

fn offer(driver: &mut MmioDriver, queue: usize, buffers: &[Buffer]) {
    driver.queues[queue].send(0, buffers);
    driver.queues[queue].kick(1);
}

fn mark(driver: &MmioDriver, at: u64, length: usize) {
    let ones = vec![1; length];
    let address = vm_memory::GuestAddress(at);
    vm_memory::Bytes::write_slice(&**driver.arena.memory(), &ones, address).unwrap();
}

#[test]
fn the_driver_hears_of_a_target_and_tells_how_far_it_is() {
    let (driver, balloon) = balloon(0);
    balloon.set_target(10 << 20);
    assert!(driver.line.wait(PATIENCE));
    assert_eq!(driver.read(0x60), 2);
    assert_eq!(driver.read(0x100), 2560);
    assert!(driver.read(0xfc) > 0);
    driver.write(0x104, 2000);
    assert_eq!(balloon.actual(), 2000 * 4096);
    // The target is not the driver's to change.
    driver.write(0x100, 1);
    assert_eq!(driver.read(0x100), 2560);
}

#[test]
fn a_turn_takes_few_of_the_pages_that_are_given_up_at_once() {
    let mut arena = Arena::new();
    let handle = Balloon::new().unwrap();
    let epoll = Arc::new(Epoll::new().unwrap());
    let mut balloon = Inflatable::new(&BalloonConfig::default(), &handle, &epoll).unwrap();
    let mut queue = DriverQueue::new(&mut arena, 32, true);
    balloon.negotiated(VERSION_1);
    balloon.start(0, queue.device_queue()).unwrap();
    let numbers = arena.allocate(128 << 10);
    for head in 0..10 {
        queue.send(head, &[(numbers, 128 << 10, 0)]);
    }
    for turn in 0..10 {
        assert!(balloon.proceed(), "{turn}");
        assert_eq!(std::iter::from_fn(|| queue.used()).count(), 1, "{turn}");
    }
    assert!(!balloon.proceed());
}

#[test]
fn pages_that_are_given_up_are_taken() {
    let (mut driver, _balloon) = balloon(0);
    mark(&driver, SECOND_REGION, 0x10000);
    let first = (SECOND_REGION >> 12) as u32;
    let numbers: Vec<u8> = [first + 3, first + 1, first + 2, first + 9, 0x7fff_ffff]
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    let at = driver.arena.place(&numbers);
    offer(&mut driver, 0, &[(at, 7, 0), (at + 7, 13, 0)]);
    assert_eq!(driver.wait_used(0, PATIENCE), Some((0, 0)));
    let bytes = driver.arena.read(SECOND_REGION, 0x10000);
    for page in 0..16 {
        let taken = matches!(page, 1 | 2 | 3 | 9);
        assert_eq!(bytes[page * 4096] == 0, taken, "{page}");
    }
    offer(&mut driver, 1, &[(at, 20, 0)]);
    assert_eq!(driver.wait_used(1, PATIENCE), Some((0, 0)));
}

#[test]
fn free_pages_that_are_reported_are_taken() {
    for (features, queue) in [(REPORTING, 2), (REPORTING | STATISTICS, 3)] {
        let (mut driver, balloon) = balloon(features);
        mark(&driver, SECOND_REGION, 0x10000);
        let ranges = [
            (SECOND_REGION, 0x2000, WRITE),
            (SECOND_REGION + 0x8000, 0x1000, WRITE),
        ];
        offer(&mut driver, queue, &ranges);
        assert_eq!(driver.wait_used(queue, PATIENCE), Some((0, 0)));
        assert_eq!(balloon.reported(), 0x3000);
        let bytes = driver.arena.read(SECOND_REGION, 0x10000);
        assert_eq!((bytes[0], bytes[0x2000], bytes[0x8000]), (0, 1, 0));
    }
}

#[test]
fn statistics_come_when_they_are_asked_for() {
    let (mut driver, balloon) = balloon(STATISTICS);
    let at = driver.arena.place(&[4, 0, 77, 0, 0, 0, 0, 0, 0, 0]);
    offer(&mut driver, 2, &[(at, 10, 0)]);
    assert_eq!(driver.queues[2].wait_used(Duration::from_millis(50)), None);
    // The buffer is kept until the host asks.
    let _ = balloon.statistics();
    assert_eq!(driver.wait_used(2, PATIENCE), Some((0, 0)));
    assert_eq!(balloon.statistics().unwrap().free, Some(77));
}

#[test]
fn a_paused_balloon_keeps_its_statistics_buffer() {
    let (mut driver, balloon) = balloon(STATISTICS);
    let at = driver.arena.place(&[5, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    offer(&mut driver, 2, &[(at, 10, 0)]);
    driver.transport.pause().unwrap();
    balloon.set_target(1 << 20);
    let state = driver.transport.save().unwrap();
    driver.transport.resume().unwrap();
    let _ = balloon.statistics();
    assert_eq!(driver.wait_used(2, PATIENCE), Some((0, 0)));
    assert!(serde_json::to_string(&state).unwrap().contains("256"));
}

#[test]
fn too_many_numbers_at_once_break_the_balloon_until_it_is_reset() {
    let (mut driver, _balloon) = balloon(0);
    offer(&mut driver, 0, &[(SECOND_REGION, 2 << 20, 0)]);
    assert!(driver.line.wait(PATIENCE));
    assert_eq!(driver.read(0x70), 15 | 64);
    driver.start(VERSION_1, 32);
    let at = driver.arena.place(&[0; 4]);
    offer(&mut driver, 1, &[(at, 4, 0)]);
    assert!(driver.wait_used(1, PATIENCE).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever a driver writes, the balloon goes on after a reset.
    #[test]
    fn no_chain_harms_the_balloon(
        descriptors in prop::collection::vec((0x2000_0000u64..0x4300_0000, 0u32..9000, 0u16..8, 0u16..20), 1..16),
        heads in prop::collection::vec((0usize..4, 0u16..20), 1..16),
    ) {
        let (mut driver, balloon) = balloon(STATISTICS | REPORTING);
        for (at, descriptor) in descriptors.iter().enumerate() {
            for queue in 0..4 {
                driver.queues[queue].describe(at as u16, *descriptor);
            }
        }
        for (queue, head) in &heads {
            driver.queues[*queue].offer(*head);
            driver.queues[*queue].kick.signal();
            let _ = balloon.statistics();
        }
        driver.start(VERSION_1, 32);
        let at = driver.arena.place(&[0; 4]);
        offer(&mut driver, 1, &[(at, 4, 0)]);
        prop_assert!(driver.wait_used(1, PATIENCE).is_some());
    }
}
