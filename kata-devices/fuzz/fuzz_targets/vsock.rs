//! A vsock device against any driver.
#![no_main]

use std::cell::RefCell;

use kata_devices::testing::{MmioDriver, Stepper, play, stepped};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static DEVICE: RefCell<(MmioDriver, Stepper)> = RefCell::new(device());
}

fn device() -> (MmioDriver, Stepper) {
    let dir = tempfile::tempdir().expect("a directory").keep();
    let config = kata_devices::vsock::VsockConfig {
        guest_cid: 3,
        socket: dir.join("vsock"),
    };
    let (device, stepper) = stepped::vsock(&config).expect("a vsock device");
    (MmioDriver::new(device), stepper)
}

fuzz_target!(|script: &[u8]| {
    DEVICE.with_borrow_mut(|(driver, stepper)| play(driver, stepper, script));
});
