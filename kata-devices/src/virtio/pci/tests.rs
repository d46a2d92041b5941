//! A driver that finds its device on a bus, and some that search for trouble.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use crate::pci::{BarListener, PciBus, Slot};
use crate::rng::RngConfig;
use crate::testing::{BAR_ADDRESS, PciDriver, WRITE};
use crate::virtio::pci::PciTransport;
use crate::virtio::{QUEUE_FEATURES, ThreadStart};

const PATIENCE: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_millis(50);

fn rng() -> PciDriver {
    let device = RngConfig::default()
        .device(&ThreadStart::default())
        .unwrap();
    PciDriver::new(device)
}

fn offer(driver: &mut PciDriver) {
    driver.queues[0].arm();
    driver.queues[0].send(0, &[(0x1000, 100, WRITE)]);
    driver.queues[0].kick(1);
}

fn draws(driver: &mut PciDriver) {
    offer(driver);
    assert_eq!(driver.wait_used(0, PATIENCE), Some((0, 100)));
}

#[test]
fn a_driver_finds_the_device_and_gets_what_it_asks_for() {
    let mut driver = rng();
    assert_eq!(driver.config(0), [0xf4, 0x1a, 0x44, 0x10]);
    assert_eq!(driver.config::<1>(8), [1]);
    for kind in 1..=5 {
        assert!(driver.capability(9, Some(kind)).is_some(), "{kind}");
    }
    driver.start(QUEUE_FEATURES, 8);
    assert_eq!(driver.read::<1>(0x14), [15]);
    assert_eq!(driver.read(0x12), [1, 0]);
    for _ in 0..10 {
        draws(&mut driver);
    }
    assert_eq!(driver.vectors.route_of(1).unwrap().data, 0x41);
    assert_eq!(driver.transport.offences(), 0);
}

#[test]
fn a_write_to_the_doorbell_is_a_kick() {
    let mut driver = rng();
    driver.start(1 << 32, 8);
    driver.queues[0].send(0, &[(0x1000, 16, WRITE)]);
    driver.write(0x3000, &[0, 0]);
    assert_eq!(driver.wait_used(0, PATIENCE), Some((0, 16)));
}

#[test]
fn the_bar_tells_its_size_and_can_be_moved() {
    let driver = rng();
    driver.set_config(0x10, &[0xff; 4]);
    driver.set_config(0x14, &[0xff; 4]);
    assert_eq!(driver.config(0x10), 0xffff_0004u32.to_le_bytes());
    assert_eq!(driver.config(0x14), [0xff; 4]);
    // Nobody answers before the guest allows it.
    assert!(!driver.bus.read_memory(BAR_ADDRESS, &mut [0; 4]));
    driver.enable();
    assert!(driver.bus.read_memory(BAR_ADDRESS, &mut [0; 4]));
    assert!(!driver.bus.read_memory(BAR_ADDRESS + 0xfffe, &mut [0; 4]));
    assert!(!driver.bus.read_memory(u64::MAX - 1, &mut [0; 4]));
    driver.set_config(0x14, &[1, 0, 0, 0]);
    assert!(driver.bus.read_memory(BAR_ADDRESS | 1 << 32, &mut [0; 4]));
    driver.set_config(0x04, &[0, 0]);
    assert!(!driver.bus.read_memory(BAR_ADDRESS | 1 << 32, &mut [0; 4]));
}

#[test]
fn a_masked_vector_is_pending_and_comes_when_it_may() {
    let mut driver = rng();
    driver.start(1 << 32, 8);
    driver.write(0x8010 + 12, &[1, 0, 0, 0]);
    offer(&mut driver);
    assert!(!driver.vectors.wait(1, MOMENT));
    assert_eq!(driver.queues[0].used(), Some((0, 100)));
    assert_eq!(driver.read::<8>(0xc000), [2, 0, 0, 0, 0, 0, 0, 0]);
    driver.write(0x8010 + 12, &[0; 4]);
    assert!(driver.vectors.wait(1, PATIENCE));
    assert_eq!(driver.read::<8>(0xc000), [0; 8]);

    // The same for all vectors at once.
    let msix = driver.capability(0x11, None).unwrap();
    driver.set_config(msix + 2, &0xc000u16.to_le_bytes());
    offer(&mut driver);
    assert!(!driver.vectors.wait(1, MOMENT));
    driver.set_config(msix + 2, &0x8000u16.to_le_bytes());
    assert!(driver.vectors.wait(1, PATIENCE));
}

#[test]
fn a_vector_that_others_signal_is_signalled_again_when_it_is_unmasked() {
    use crate::virtio::Interrupt as _;
    let driver = rng();
    driver.enable();
    let vector = super::msix::Vector::new(driver.transport.msix(), 1);
    assert!(vector.eventfd().is_some());
    driver.set_vector(1, 7);
    assert!(driver.vectors.wait(1, PATIENCE));
}

#[test]
fn vectors_that_there_are_not_are_refused() {
    let mut driver = rng();
    driver.start(1 << 32, 8);
    for vector in [2u16, 100, 0xffff] {
        driver.write(0x10, &vector.to_le_bytes());
        assert_eq!(driver.read(0x10), [0xff, 0xff]);
        driver.write(0x1a, &vector.to_le_bytes());
        assert_eq!(driver.read(0x1a), [0xff, 0xff]);
    }
    driver.write(0x8000 + 16 * 2, &[0xff; 8]);
    assert_eq!(driver.read::<8>(0x8000 + 16 * 2), [0; 8]);
}

#[test]
fn a_broken_ring_tells_by_the_vector_of_changes() {
    let mut driver = rng();
    driver.start(1 << 32, 8);
    driver.queues[0].set_available_index(9);
    driver.queues[0].kick.signal();
    assert!(driver.vectors.wait(0, PATIENCE));
    assert_eq!(driver.read::<1>(0x14), [15 | 64]);
    assert_eq!(driver.read::<1>(0x1000), [2]);
    assert_eq!(driver.read::<1>(0x1000), [0]);
    driver.start(1 << 32, 8);
    draws(&mut driver);
}

#[test]
fn the_window_in_configuration_space_reaches_the_registers() {
    let mut driver = rng();
    driver.start(1 << 32, 8);
    let window = driver.capability(9, Some(5)).unwrap();
    let aim = |offset: u32, width: u32| {
        driver.set_config(window + 4, &[0]);
        driver.set_config(window + 8, &offset.to_le_bytes());
        driver.set_config(window + 12, &width.to_le_bytes());
    };
    aim(0x14, 1);
    assert_eq!(driver.config::<1>(window + 16), [15]);
    driver.set_config(window + 16, &[0]);
    assert_eq!(driver.read::<1>(0x14), [0]);
    for (offset, width) in [(0x14, 3), (0xffff_fffc, 4), (0x14, 0), (0, u32::MAX)] {
        aim(offset, width);
        let _ = driver.config::<4>(window + 16);
        driver.set_config(window + 16, &[0xff; 4]);
    }
}

#[test]
fn a_queue_can_be_reset_and_used_again() {
    let mut driver = rng();
    driver.start(QUEUE_FEATURES | 1 << 40, 8);
    draws(&mut driver);
    driver.write(0x16, &[0, 0]);
    driver.write(0x3a, &[1, 0]);
    assert_eq!(driver.read(0x3a), [0, 0]);
    assert_eq!(driver.read(0x1c), [0, 0]);
    driver.start(QUEUE_FEATURES, 8);
    draws(&mut driver);
}

#[test]
fn a_paused_function_is_saved_and_goes_on_in_another() {
    let mut driver = rng();
    driver.start(QUEUE_FEATURES, 8);
    draws(&mut driver);
    assert!(driver.transport.save().is_err(), "it still runs");
    driver.transport.pause().unwrap();
    // Offered while nobody looks, and its interrupt masked.
    driver.write(0x8010 + 12, &[1, 0, 0, 0]);
    offer(&mut driver);
    let words = serde_json::to_string(&driver.transport.save().unwrap()).unwrap();
    let state = serde_json::from_str(&words).unwrap();

    let new = || RngConfig::default().device(&ThreadStart::default());
    driver.replace(new().unwrap());
    assert!(!driver.bus.read_memory(BAR_ADDRESS, &mut [0; 4]));
    driver.transport.restore(&state).unwrap();
    assert_eq!(driver.read::<1>(0x14), [15], "at its place, and ready");
    assert!(!driver.vectors.wait(1, MOMENT), "masked");
    driver.write(0x8010 + 12, &[0; 4]);
    assert!(driver.vectors.wait(1, PATIENCE));
    assert_eq!(driver.vectors.route_of(1).unwrap().data, 0x41);
    assert_eq!(driver.queues[0].used(), Some((0, 100)));
    draws(&mut driver);
}

#[test]
fn a_state_of_another_function_is_refused() {
    let driver = rng();
    let words = serde_json::to_value(driver.transport.save().unwrap()).unwrap();
    let refused = |change: fn(&mut serde_json::Value)| {
        let mut words = words.clone();
        change(&mut words);
        let state = serde_json::from_value(words).unwrap();
        rng().transport.restore(&state).unwrap_err().to_string()
    };
    assert!(refused(|words| words["version"] = 2.into()).contains("version 2"));
    let damaged: [fn(&mut serde_json::Value); 4] = [
        |words| words["space"][0] = 1.into(),
        |words| words["space"] = vec![0; 3].into(),
        |words| words["vectors"]["entries"] = serde_json::json!([]),
        |words| words["transport"]["queues"][0]["vector"] = 2.into(),
    ];
    for change in damaged {
        assert!(refused(change).contains("damaged"));
    }
}

#[derive(Default)]
struct Moves(Mutex<Vec<Move>>);

type Move = (Slot, Option<u64>, Option<u64>);

impl BarListener for Moves {
    fn moved(&self, slot: Slot, from: Option<u64>, to: Option<u64>) {
        self.0.lock().unwrap().push((slot, from, to));
    }
}

#[test]
fn whoever_keeps_doorbells_hears_where_they_go() {
    let moves = Arc::new(Moves::default());
    let bus = PciBus::new(Some(moves.clone()));
    let driver = rng();
    let slot = bus.add(driver.transport.clone()).unwrap();
    let at = |register: u64| u64::from(slot.0) << 15 | register;
    bus.write_ecam(at(0x10), &0xd000_0000u32.to_le_bytes());
    bus.write_ecam(at(0x04), &[2, 0]);
    bus.write_ecam(at(0x10), &0xd001_0000u32.to_le_bytes());
    bus.tell_place(slot);
    assert!(bus.remove(slot).is_some());
    assert!(bus.remove(Slot(0)).is_none());
    let expected = [
        (slot, None, Some(0xd000_0000)),
        (slot, Some(0xd000_0000), Some(0xd001_0000)),
        (slot, None, Some(0xd001_0000)),
        (slot, Some(0xd001_0000), None),
    ];
    assert_eq!(*moves.0.lock().unwrap(), expected);
}

#[test]
fn what_is_not_there_reads_as_ones_and_a_bus_can_be_full() {
    let driver = rng();
    let mut data = [0; 4];
    for offset in [1 << 20, 2 << 15, 1 << 12, u64::MAX] {
        driver.bus.read_ecam(offset, &mut data);
        assert_eq!(data, [0xff; 4], "{offset:#x}");
        driver.bus.write_ecam(offset, &[0; 4]);
    }
    driver.bus.read_ecam(0, &mut data);
    assert_eq!(data, [0x36, 0x1b, 0x08, 0]);
    for _ in 0..30 {
        driver.bus.add(driver.transport.clone()).unwrap();
    }
    assert!(driver.bus.add(driver.transport.clone()).is_err());
}

#[test]
fn every_place_of_the_bar_takes_every_value_at_any_time() {
    let driver = rng();
    driver.enable();
    let size = PciTransport::BAR_SIZE;
    for offset in (0..0x48)
        .chain(0xff8..0x1008)
        .chain((0x2000..size).step_by(0x3fe))
    {
        for width in 0..9 {
            let at = BAR_ADDRESS + offset;
            driver.bus.read_memory(at, &mut vec![0; width]);
            for byte in [0, 1, 0x7f, 0xff] {
                driver.bus.write_memory(at, &vec![byte; width]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a guest reads and writes, the device works after a reset.
    #[test]
    fn no_access_harms_the_device(
        accesses in prop::collection::vec(
            (0u8..4, 0u64..0x1_0000, 0usize..9, any::<u64>()), 1..200),
    ) {
        let mut driver = rng();
        driver.start(1 << 32, 8);
        for (kind, offset, width, value) in accesses {
            let data = &value.to_le_bytes()[..width.min(8)];
            let low = u16::try_from(offset % 12).unwrap();
            match kind {
                0 => driver.bus.write_ecam(offset, data),
                1 => driver.bus.write_port(low, data),
                2 => drop(driver.bus.write_memory(BAR_ADDRESS + offset, data)),
                _ => drop(driver.bus.read_memory(BAR_ADDRESS + offset, &mut vec![0; width])),
            }
        }
        driver.start(1 << 32, 8);
        // What was raised before the start is not waited for.
        while driver.vectors.wait(1, Duration::ZERO) {}
        draws(&mut driver);
    }
}
