//! A driver that does whatever a script of bytes says: for fuzzers and their twins
//! in the test suite.

use vm_memory::{Bytes, GuestAddress};

use super::mmio::MmioDriver;
use super::stepped::Stepper;

/// The features that the driver chooses among those offered: all of them.
const QUEUE_SIZE: u16 = 16;

/// Where the script's addresses are, mostly.
const WINDOW: u64 = 0x1_0000;

/// Bytes, one after the other; zeroes after the end.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn number(&mut self, bytes: usize) -> u64 {
        (0..bytes).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// An address: mostly one where the script writes, now and then any.
    fn address(&mut self) -> u64 {
        match self.byte() {
            255 => self.number(8),
            254 => super::SECOND_REGION - 64 + self.number(1),
            high => 0x1000 + (u64::from(high) << 8 | self.number(1)) % WINDOW,
        }
    }
}

/// Lets a driver of the device play `script` from its start, and the device work.
///
/// # Panics
/// When the device does not get done, or does not get over it.
pub fn play(driver: &mut MmioDriver, stepper: &Stepper, script: &[u8]) {
    let features = driver.offered();
    driver.start(features, QUEUE_SIZE);
    let mut script = Script(script);
    let mut kicks = 0;
    while !script.0.is_empty() && kicks < 64 {
        let queue = usize::from(script.byte()) % driver.queues.len();
        match script.byte() % 8 {
            0 | 1 => {
                let at = script.byte() % 18;
                let descriptor = (
                    script.address(),
                    script.number(2) as u32,
                    u16::from(script.byte() % 8),
                    u16::from(script.byte() % 18),
                );
                driver.queues[queue].describe(u16::from(at), descriptor);
            }
            2 => driver.queues[queue].offer(u16::from(script.byte() % 18)),
            3 => {
                let at = script.address();
                let count = usize::from(script.byte() % 64);
                let bytes: Vec<u8> = (0..count).map(|_| script.byte()).collect();
                // What is no memory is not written.
                let _ = driver.arena.memory().write(&bytes, GuestAddress(at));
            }
            4 => driver.queues[queue].set_available_index(script.number(2) as u16),
            5 => {
                let register = script.number(1) * 2;
                let value = script.number(4) as u32;
                driver.write(register as u32, value);
            }
            _ => {
                driver.queues[queue].kick.signal();
                stepper.step();
                kicks += 1;
            }
        }
    }
    stepper.step();
    driver.write(0x70, 0);
    driver.arena.clear();
    driver.start(features, QUEUE_SIZE);
    assert_eq!(driver.read(0x70), 15, "the device does not start anew");
    stepper.step();
    assert_eq!(driver.read(0x70), 15, "the device is broken by nothing");
    driver.write(0x70, 0);
    driver.arena.clear();
}
