//! Configurations of CNI networks.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| kata_network::testing::read_configuration(bytes));
