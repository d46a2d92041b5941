//! A console through real rings on virtio-mmio.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::ConsoleConfig;
use crate::testing::{Buffer, MmioDriver, WRITE};
use crate::virtio::ThreadStart;

const PATIENCE: Duration = Duration::from_secs(30);
const VERSION_1: u64 = 1 << 32;
const RX: usize = 0;
const TX: usize = 1;

struct Console {
    driver: MmioDriver,
    keyboard: File,
    screen: File,
}

fn console() -> Console {
    let (input, keyboard) = rustix::pipe::pipe().unwrap();
    let (screen, output) = rustix::pipe::pipe().unwrap();
    let config = ConsoleConfig {
        input: Some(input),
        output,
    };
    let mut driver = MmioDriver::new(config.device(&ThreadStart::default()).unwrap());
    driver.start(VERSION_1, 32);
    Console {
        driver,
        keyboard: keyboard.into(),
        screen: screen.into(),
    }
}

fn offer(driver: &mut MmioDriver, queue: usize, first: u16, buffers: &[Buffer]) {
    driver.queues[queue].send(first, buffers);
    driver.queues[queue].kick(1);
}

#[test]
fn both_sides_hear_each_other() {
    let mut console = console();
    let at = console.driver.arena.place(b"hello, host");
    offer(&mut console.driver, TX, 0, &[(at, 5, 0), (at + 5, 6, 0)]);
    assert!(console.driver.wait_used(TX, PATIENCE).is_some());
    let mut heard = [0; 11];
    console.screen.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello, host");

    let into = console.driver.arena.allocate(16);
    offer(
        &mut console.driver,
        RX,
        0,
        &[(into, 2, WRITE), (into + 2, 14, WRITE)],
    );
    console.keyboard.write_all(b"hello, guest").unwrap();
    assert_eq!(console.driver.wait_used(RX, PATIENCE), Some((0, 12)));
    assert_eq!(console.driver.arena.read(into, 12), b"hello, guest");
}

#[test]
fn nothing_is_lost_when_the_host_reads_late() {
    let mut console = console();
    let text: Vec<u8> = (0..=250).cycle().take(200_000).collect();
    let at = console.driver.arena.place(&text);
    for part in 0..20u16 {
        let from = at + 10_000 * u64::from(part);
        console.driver.queues[TX].send(part, &[(from, 10_000, 0)]);
    }
    console.driver.queues[TX].kick(20);
    let mut heard = vec![0; text.len()];
    console.screen.read_exact(&mut heard).unwrap();
    assert!(heard == text, "bytes differ");
}

#[test]
fn input_waits_for_buffers() {
    let mut console = console();
    console.keyboard.write_all(b"abcdef").unwrap();
    let into = console.driver.arena.allocate(8);
    for expected in [&b"abc"[..], b"def"] {
        offer(&mut console.driver, RX, 0, &[(into, 3, WRITE)]);
        assert_eq!(console.driver.wait_used(RX, PATIENCE), Some((0, 3)));
        assert_eq!(console.driver.arena.read(into, 3), expected);
    }
}

#[test]
fn a_screen_that_is_gone_holds_nobody_up() {
    let mut console = console();
    console.screen = File::open("/dev/null").unwrap();
    for _ in 0..3 {
        offer(&mut console.driver, TX, 0, &[(0x1000, 100, 0)]);
        assert!(console.driver.wait_used(TX, PATIENCE).is_some());
    }
}

#[test]
fn a_file_takes_output_and_emergencies() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = ConsoleConfig {
        input: None,
        output: OwnedFd::from(file.reopen().unwrap()),
    };
    let mut driver = MmioDriver::new(config.device(&ThreadStart::default()).unwrap());
    driver.start(VERSION_1 | 1 << 2, 32);
    driver.write(0x108, u32::from(b'!'));
    let at = driver.arena.place(b"panic");
    offer(&mut driver, TX, 0, &[(at, 5, 0)]);
    assert!(driver.wait_used(TX, PATIENCE).is_some());
    assert_eq!(std::fs::read(file.path()).unwrap(), b"!panic");
}

#[test]
fn chains_that_are_none_break_the_console_until_it_is_reset() {
    let mut console = console();
    let bad: [(usize, &[Buffer]); 3] = [
        (TX, &[(0x5000, 10, WRITE)]),
        (TX, &[(u64::MAX - 1, 10, 0)]),
        (RX, &[(0x5000, 10, 0)]),
    ];
    for (queue, chain) in bad {
        console.keyboard.write_all(b"x").unwrap();
        offer(&mut console.driver, queue, 0, chain);
        assert!(console.driver.line.wait(PATIENCE));
        assert_eq!(console.driver.read(0x70), 15 | 64, "{chain:?}");
        console.driver.start(VERSION_1, 32);
    }
}
