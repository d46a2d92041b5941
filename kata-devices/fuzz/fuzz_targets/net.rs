//! A network card against any driver.
#![no_main]

use std::cell::RefCell;

use kata_devices::testing::{MmioDriver, Stepper, play, stepped};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static DEVICE: RefCell<(MmioDriver, Stepper)> = RefCell::new(device());
}

fn device() -> (MmioDriver, Stepper) {
    let (wire, port) = std::os::unix::net::UnixDatagram::pair().expect("sockets");
    wire.set_nonblocking(true).expect("a socket");
    std::mem::forget(wire);
    let link = kata_devices::net::Link::Packets(vec![port.into()]);
    let config = kata_devices::net::NetConfig::new(link);
    let (device, stepper) = stepped::net(config).expect("a card");
    (MmioDriver::new(device), stepper)
}

fuzz_target!(|script: &[u8]| {
    DEVICE.with_borrow_mut(|(driver, stepper)| play(driver, stepper, script));
});
