//! A driver that follows the specification, and some that do not.

use std::time::Duration;

use virtio_bindings::virtio_mmio as layout;

use super::MmioTransport;
use crate::fs::{FsConfig, SharedTree};
use crate::rng::RngConfig;
use crate::testing::{DriverQueue, Line, MmioDriver, SECOND_REGION, WRITE};
use crate::virtio::{QUEUE_FEATURES, ThreadStart};
use crate::vsock::VsockConfig;

const PATIENCE: Duration = Duration::from_secs(20);
const NEEDS_RESET: u32 = 64;

fn rng() -> MmioDriver {
    let device = RngConfig::default()
        .device(&ThreadStart::default())
        .unwrap();
    MmioDriver::new(device)
}

fn draw(driver: &mut MmioDriver, length: u32) -> Vec<u8> {
    let at = driver.arena.allocate(length as usize);
    driver.queues[0].send(0, &[(at, length, WRITE)]);
    driver.queues[0].kick(1);
    let (_, written) = driver.wait_used(0, PATIENCE).unwrap();
    driver.arena.read(at, written as usize)
}

#[test]
fn a_driver_gets_what_it_asks_for() {
    for features in [1 << 32, QUEUE_FEATURES] {
        let mut driver = rng();
        assert_eq!(driver.read(layout::VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
        assert_eq!(driver.read(layout::VIRTIO_MMIO_VERSION), 2);
        assert_eq!(driver.read(layout::VIRTIO_MMIO_DEVICE_ID), 4);
        assert_eq!(driver.offered(), QUEUE_FEATURES | 1 << 40);
        driver.start(features, 8);
        assert_eq!(driver.read(layout::VIRTIO_MMIO_STATUS), 15);
        for _ in 0..20 {
            let drawn = draw(&mut driver, 3000);
            assert_eq!(drawn.len(), 3000);
            assert!(drawn.iter().any(|byte| *byte != drawn[0]));
        }
        assert_eq!(driver.transport.offences(), 0);
    }
}

#[test]
fn a_write_to_the_doorbell_is_a_kick() {
    let mut driver = rng();
    driver.start(1 << 32, 8);
    let at = driver.arena.allocate(16);
    driver.queues[0].send(0, &[(at, 16, WRITE)]);
    driver.write(layout::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(driver.wait_used(0, PATIENCE).unwrap(), (0, 16));
}

#[test]
fn features_that_were_not_offered_are_not_accepted() {
    let driver = rng();
    driver.negotiate(1 << 32 | 1 << 5);
    assert_eq!(driver.read(layout::VIRTIO_MMIO_STATUS), 3);
    driver.negotiate(0);
    assert_eq!(driver.read(layout::VIRTIO_MMIO_STATUS), 3);
    driver.negotiate(1 << 32);
    assert_eq!(driver.read(layout::VIRTIO_MMIO_STATUS), 11);
}

#[test]
fn a_queue_that_lies_nowhere_needs_a_reset_and_gets_over_it() {
    let mut driver = rng();
    driver.negotiate(1 << 32);
    let mut queue = DriverQueue::new(&mut driver.arena, 8, false);
    for bad in [SECOND_REGION - 16, !15, 0x7] {
        queue.descriptors = bad;
        driver.write(layout::VIRTIO_MMIO_QUEUE_SEL, 0);
        driver.set_up(&queue);
        driver.write(layout::VIRTIO_MMIO_STATUS, 15);
        let status = driver.read(layout::VIRTIO_MMIO_STATUS);
        assert_eq!(status, 15 | NEEDS_RESET, "{bad:#x}");
        assert!(driver.line.wait(PATIENCE));
        assert_eq!(driver.read(layout::VIRTIO_MMIO_INTERRUPT_STATUS) & 2, 2);
        driver.negotiate(1 << 32);
    }
    driver.start(QUEUE_FEATURES, 8);
    assert_eq!(draw(&mut driver, 100).len(), 100);
}

#[test]
fn a_ring_that_overflows_breaks_the_device_until_it_is_reset() {
    let mut driver = rng();
    driver.start(1 << 32, 8);
    driver.queues[0].set_available_index(9);
    driver.queues[0].kick.signal();
    assert!(driver.line.wait(PATIENCE));
    let status = driver.read(layout::VIRTIO_MMIO_STATUS);
    assert_eq!(status, 15 | NEEDS_RESET);
    driver.start(QUEUE_FEATURES, 8);
    assert_eq!(driver.read(layout::VIRTIO_MMIO_STATUS), 15);
    assert_eq!(draw(&mut driver, 100).len(), 100);
}

#[test]
fn a_reset_between_requests_leaves_nothing_of_the_old_driver() {
    let mut driver = rng();
    for round in 1..50 {
        driver.start(QUEUE_FEATURES, 16);
        for head in 0..16 {
            driver.queues[0].send(head, &[(0x1000, 64, WRITE)]);
        }
        driver.queues[0].kick(16);
        driver.write(layout::VIRTIO_MMIO_STATUS, 0);
        assert_eq!(driver.read(layout::VIRTIO_MMIO_STATUS), 0, "{round}");
        assert_eq!(driver.read(layout::VIRTIO_MMIO_INTERRUPT_STATUS), 0);
        // The device does not write any more.
        while driver.queues[0].used().is_some() {}
        let still = driver.arena.read(0x1000, 64);
        assert_eq!(driver.queues[0].used(), None);
        assert_eq!(driver.arena.read(0x1000, 64), still);
    }
}

#[test]
fn one_queue_can_be_reset_and_used_again() {
    let mut driver = rng();
    driver.start(QUEUE_FEATURES | 1 << 40, 8);
    assert_eq!(draw(&mut driver, 10).len(), 10);
    driver.write(layout::VIRTIO_MMIO_QUEUE_SEL, 0);
    driver.write(0xc0, 1);
    assert_eq!(driver.read(0xc0), 0);
    assert_eq!(driver.read(layout::VIRTIO_MMIO_QUEUE_READY), 0);
    let mut queue = DriverQueue::new(&mut driver.arena, 4, true);
    queue.kick = driver.transport.kicks()[0].kick.clone();
    driver.set_up(&queue);
    driver.queues[0] = queue;
    assert_eq!(draw(&mut driver, 10).len(), 10);
}

#[test]
fn every_register_takes_every_value_at_any_time() {
    let driver = rng();
    for offset in (0..0x140).chain([0xffe, 0xfff, 0x1000, u64::MAX - 3]) {
        for width in 0..10 {
            driver.transport.read(offset, &mut vec![0; width]);
            for byte in [0, 1, 0x7f, 0xff] {
                driver.transport.write(offset, &vec![byte; width]);
            }
        }
    }
    assert!(driver.transport.offences() > 0);
}

#[test]
fn a_paused_device_is_saved_and_goes_on_in_another() {
    let mut driver = rng();
    driver.start(QUEUE_FEATURES, 8);
    assert_eq!(draw(&mut driver, 10).len(), 10);
    assert!(driver.transport.save().is_err(), "it still runs");
    driver.transport.pause().unwrap();
    // Offered while nobody looks.
    driver.queues[0].arm();
    driver.queues[0].send(3, &[(0x2000, 32, WRITE)]);
    driver.queues[0].kick(1);
    let words = serde_json::to_string(&driver.transport.save().unwrap()).unwrap();

    let device = RngConfig::default()
        .device(&ThreadStart::default())
        .unwrap();
    let line = Line::new();
    let memory = std::sync::Arc::clone(driver.arena.memory());
    let restored = MmioTransport::new(device, memory, line.clone()).unwrap();
    restored
        .restore(&serde_json::from_str(&words).unwrap())
        .unwrap();
    assert!(line.wait(PATIENCE));
    assert_eq!(driver.queues[0].used(), Some((3, 32)));
}

#[test]
fn a_paused_device_resumes() {
    let mut driver = rng();
    driver.start(QUEUE_FEATURES, 8);
    driver.transport.pause().unwrap();
    driver.queues[0].send(0, &[(0x2000, 32, WRITE)]);
    driver.queues[0].kick(1);
    assert!(!driver.line.wait(Duration::from_millis(50)));
    driver.transport.resume().unwrap();
    assert_eq!(driver.wait_used(0, PATIENCE), Some((0, 32)));
}

#[test]
fn vsock_and_fs_are_on_it_with_their_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let vsock = VsockConfig {
        guest_cid: 42,
        socket: dir.path().join("v"),
    };
    let driver = MmioDriver::new(vsock.device(&ThreadStart::default()).unwrap());
    assert_eq!(driver.read(layout::VIRTIO_MMIO_DEVICE_ID), 19);
    assert_eq!(driver.config(9), [42, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(driver.transport.kicks().len(), 3);
    drop(driver);
    assert!(!dir.path().join("v").exists());

    let fs = FsConfig {
        tag: "tag".into(),
        tree: SharedTree::new().unwrap(),
    };
    let driver = MmioDriver::new(fs.device(&ThreadStart::default()).unwrap());
    assert_eq!(driver.read(layout::VIRTIO_MMIO_DEVICE_ID), 26);
    let config = driver.config(40);
    assert_eq!(
        (&config[..4], &config[36..]),
        (&b"tag\0"[..], &[1, 0, 0, 0][..])
    );
}

#[test]
fn a_thread_that_may_not_begin_makes_a_device_that_needs_a_reset() {
    let refuse = ThreadStart::new(|_| Err(std::io::Error::other("no")));
    let mut driver = MmioDriver::new(RngConfig::default().device(&refuse).unwrap());
    driver.start(1 << 32, 8);
    assert!(driver.line.wait(PATIENCE));
    let status = driver.read(layout::VIRTIO_MMIO_STATUS);
    assert_eq!(status, 15 | NEEDS_RESET);
}
