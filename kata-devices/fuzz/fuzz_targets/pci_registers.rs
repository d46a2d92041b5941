//! Configuration space, BAR and MSI-X of virtio-pci, in any order and width.
#![no_main]

use std::cell::RefCell;

use kata_devices::rng::RngConfig;
use kata_devices::testing::{BAR_ADDRESS, PciDriver, stepped};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static DRIVER: RefCell<PciDriver> = RefCell::new({
        let (device, _) = stepped::rng(&RngConfig::default()).expect("entropy");
        PciDriver::new(device)
    });
}

fuzz_target!(|accesses: Vec<(u8, u16, u8, u64)>| {
    DRIVER.with_borrow_mut(|driver| {
        let slot = u64::from(driver.slot.0) << 15;
        for (kind, offset, width, value) in accesses {
            let width = usize::from(width % 9);
            let bytes = value.to_le_bytes();
            let data = &bytes[..width.min(8)];
            let at = BAR_ADDRESS + u64::from(offset);
            match kind % 6 {
                0 => driver
                    .bus
                    .write_ecam(slot | u64::from(offset % 0x100), data),
                1 => driver.bus.read_ecam(value, &mut vec![0; width]),
                2 => driver.bus.write_port(offset % 12, data),
                3 => driver.bus.read_port(offset % 12, &mut vec![0; width]),
                4 => drop(driver.bus.write_memory(at, data)),
                _ => drop(driver.bus.read_memory(at, &mut vec![0; width])),
            }
        }
        driver.arena.clear();
        driver.start(1 << 32, 8);
        assert_eq!(driver.read::<1>(0x14), [15]);
    });
});
