//! A balloon against any driver.
#![no_main]

use std::cell::RefCell;

use kata_devices::testing::{MmioDriver, Stepper, play, stepped};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static DEVICE: RefCell<(MmioDriver, Stepper)> = RefCell::new(device());
}

fn device() -> (MmioDriver, Stepper) {
    let config = kata_devices::balloon::BalloonConfig::default();
    let (device, stepper) = stepped::balloon(&config).expect("a balloon");
    (MmioDriver::new(device), stepper)
}

fuzz_target!(|script: &[u8]| {
    DEVICE.with_borrow_mut(|(driver, stepper)| play(driver, stepper, script));
});
