//! Headers of vsock packets.
#![no_main]

use kata_devices::vsock::{HEADER_LEN, Header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: [u8; HEADER_LEN]| {
    let header = Header::from_bytes(&bytes);
    let again = Header::from_bytes(&header.to_bytes());
    assert_eq!(again, header);
});
