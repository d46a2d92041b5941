//! The twins of the fuzzers: the same scripts, from proptest.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use proptest::prelude::*;

use super::{MmioDriver, Stepped, play, stepped};
use crate::balloon::BalloonConfig;
use crate::blk::BlkConfig;
use crate::console::ConsoleConfig;
use crate::net::{Link, NetConfig};
use crate::rng::RngConfig;
use crate::vsock::VsockConfig;

fn endures(stepped: Stepped, scripts: impl Strategy<Value = Vec<Vec<u8>>>) {
    let (device, stepper) = stepped;
    let driver = std::cell::RefCell::new(MmioDriver::new(device));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(32));
    runner
        .run(&scripts, |scripts| {
            for script in scripts {
                play(&mut driver.borrow_mut(), &stepper, &script);
            }
            Ok(())
        })
        .unwrap();
}

/// Mostly what looks like a driver's work: chains that are described, offered and
/// kicked.
fn scripts() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let step = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 8..12),
        2 => (any::<u8>(), 0u8..18).prop_map(|(queue, head)| vec![queue, 2, head]),
        1 => any::<u8>().prop_map(|queue| vec![queue, 7]),
    ];
    let script = prop::collection::vec(step, 1..60).prop_map(|steps| steps.concat());
    prop::collection::vec(script, 1..6)
}

#[test]
fn a_disk_endures_any_driver() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    endures(
        stepped::blk(&BlkConfig::new(file.path())).unwrap(),
        scripts(),
    );
}

#[test]
fn a_network_card_endures_any_driver() {
    let (wire, port) = UnixDatagram::pair().unwrap();
    wire.set_nonblocking(true).unwrap();
    for _ in 0..20 {
        wire.send(&[1; 900]).unwrap();
    }
    let config = NetConfig::new(Link::Packets(vec![OwnedFd::from(port)]));
    endures(stepped::net(config).unwrap(), scripts());
}

#[test]
fn a_console_endures_any_driver() {
    let config = ConsoleConfig {
        input: Some(std::fs::File::open("/dev/zero").unwrap().into()),
        output: std::fs::File::create("/dev/null").unwrap().into(),
    };
    endures(stepped::console(config).unwrap(), scripts());
}

#[test]
fn a_source_of_entropy_endures_any_driver() {
    endures(stepped::rng(&RngConfig::default()).unwrap(), scripts());
}

#[test]
fn a_balloon_endures_any_driver() {
    endures(
        stepped::balloon(&BalloonConfig::default()).unwrap(),
        scripts(),
    );
}

#[test]
fn a_vsock_device_endures_any_driver() {
    let dir = tempfile::tempdir().unwrap();
    let config = VsockConfig {
        guest_cid: 3,
        socket: dir.path().join("vsock"),
    };
    endures(stepped::vsock(&config).unwrap(), scripts());
}
