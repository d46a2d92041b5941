//! The registers of virtio-mmio, in any order and width.
#![no_main]

use std::cell::RefCell;

use kata_devices::rng::RngConfig;
use kata_devices::testing::{MmioDriver, stepped};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static DRIVER: RefCell<MmioDriver> = RefCell::new({
        let (device, _) = stepped::rng(&RngConfig::default()).expect("entropy");
        MmioDriver::new(device)
    });
}

fuzz_target!(|accesses: Vec<(bool, u16, u8, u64)>| {
    DRIVER.with_borrow_mut(|driver| {
        for (write, offset, width, value) in accesses {
            let width = usize::from(width % 9);
            let offset = u64::from(offset % 0x140);
            if write {
                driver
                    .transport
                    .write(offset, &value.to_le_bytes()[..width.min(8)]);
            } else {
                driver.transport.read(offset, &mut vec![0; width]);
            }
        }
        driver.arena.clear();
        driver.start(driver.offered(), 8);
        assert_eq!(driver.read(0x70), 15);
    });
});
