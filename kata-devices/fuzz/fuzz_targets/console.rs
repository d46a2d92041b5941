//! A console against any driver.
#![no_main]

use std::cell::RefCell;

use kata_devices::testing::{MmioDriver, Stepper, play, stepped};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static DEVICE: RefCell<(MmioDriver, Stepper)> = RefCell::new(device());
}

fn device() -> (MmioDriver, Stepper) {
    let config = kata_devices::console::ConsoleConfig {
        input: Some(std::fs::File::open("/dev/zero").expect("zeroes").into()),
        output: std::fs::File::create("/dev/null").expect("nothing").into(),
    };
    let (device, stepper) = stepped::console(config).expect("a console");
    (MmioDriver::new(device), stepper)
}

fuzz_target!(|script: &[u8]| {
    DEVICE.with_borrow_mut(|(driver, stepper)| play(driver, stepper, script));
});
