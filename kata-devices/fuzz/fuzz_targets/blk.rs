//! A disk against any driver.
#![no_main]

use std::cell::RefCell;

use kata_devices::testing::{MmioDriver, Stepper, play, stepped};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static DEVICE: RefCell<(MmioDriver, Stepper)> = RefCell::new(device());
}

fn device() -> (MmioDriver, Stepper) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    file.as_file().set_len(1 << 20).expect("a size");
    let config = kata_devices::blk::BlkConfig::new(file.path());
    let (device, stepper) = stepped::blk(&config).expect("a disk");
    (MmioDriver::new(device), stepper)
}

fuzz_target!(|script: &[u8]| {
    DEVICE.with_borrow_mut(|(driver, stepper)| play(driver, stepper, script));
});
