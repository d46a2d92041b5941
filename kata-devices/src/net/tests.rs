//! Cards through real rings on virtio-mmio, over sockets and over a real tap.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the numbers of a test are small"
)]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{Link, MacAddress, NetConfig, Tap};
use crate::rate::Rate;
use crate::testing::{Buffer, MmioDriver, NEXT, WRITE};
use crate::virtio::ThreadStart;

const PATIENCE: Duration = Duration::from_secs(30);
const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;
const MERGEABLE: u64 = 1 << 15;
const MQ: u64 = 1 << 22 | 1 << 17;
const STATUS_REGISTER: u32 = 0x70;
const RX: usize = 0;
const TX: usize = 1;

struct Card {
    driver: MmioDriver,
    wires: Vec<UnixDatagram>,
}

fn card_with(pairs: usize, features: u64, change: impl FnOnce(&mut NetConfig)) -> Card {
    let (wires, ports): (Vec<_>, Vec<_>) =
        (0..pairs).map(|_| UnixDatagram::pair().unwrap()).unzip();
    for wire in &wires {
        wire.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let ports = ports.into_iter().map(OwnedFd::from).collect();
    let mut config = NetConfig::new(Link::Packets(ports));
    change(&mut config);
    let device = config.device(&ThreadStart::default()).unwrap();
    let mut driver = MmioDriver::new(device);
    driver.start(VERSION_1 | features, 64);
    Card { driver, wires }
}

fn card() -> Card {
    card_with(1, EVENT_IDX | MERGEABLE, |_| {})
}

fn frame(length: usize, seed: u8) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend((0..length).map(|at| (at % 251) as u8 ^ seed));
    frame
}

impl Card {
    fn offer(&mut self, queue: usize, first: u16, buffers: &[Buffer]) {
        self.driver.queues[queue].send(first, buffers);
        self.driver.queues[queue].kick(1);
    }

    fn send(&mut self, bytes: &[u8]) {
        let at = self.driver.arena.place(bytes);
        self.offer(TX, 0, &[(at, bytes.len() as u32, 0)]);
        assert!(self.driver.wait_used(TX, PATIENCE).is_some());
    }

    fn heard(&self, wire: usize) -> Vec<u8> {
        let mut buffer = vec![0; 70_000];
        let length = self.wires[wire].recv(&mut buffer).unwrap();
        buffer.truncate(length);
        buffer
    }
}

#[test]
fn frames_go_out_as_they_are() {
    let mut card = card();
    for length in [14, 60, 1500, 9000, 60_000] {
        let sent = frame(length, 5);
        card.send(&sent);
        assert_eq!(card.heard(0), sent);
    }
}

#[test]
fn a_frame_of_many_pieces_goes_out_whole() {
    let mut card = card_with(1, 0, |_| {});
    let sent = frame(1500, 9);
    let at = card.driver.arena.place(&sent);
    // 60 descriptors, one of which crosses nothing.
    let step = sent.len().div_ceil(60) as u32;
    let pieces: Vec<_> = (0..60)
        .map(|piece| {
            let from = piece * step;
            (
                at + u64::from(from),
                step.min((sent.len() as u32).saturating_sub(from)),
                0,
            )
        })
        .collect();
    card.offer(TX, 0, &pieces);
    assert_eq!(card.heard(0), sent);
}

#[test]
fn frames_come_in_with_their_number_of_buffers() {
    let mut card = card();
    let into = card.driver.arena.allocate(2048);
    card.offer(RX, 0, &[(into, 12, WRITE), (into + 12, 2036, WRITE)]);
    card.wires[0].send(&frame(100, 3)).unwrap();
    assert_eq!(card.driver.wait_used(RX, PATIENCE), Some((0, 112)));
    let got = card.driver.arena.read(into, 112);
    assert_eq!(
        (&got[10..12], &got[12..]),
        (&[1, 0][..], &frame(100, 3)[12..])
    );
}

#[test]
fn a_large_frame_is_spread_over_mergeable_buffers() {
    let mut card = card();
    let into = card.driver.arena.allocate(10 * 1024);
    for buffer in 0..10 {
        let at = into + 1024 * u64::from(buffer);
        card.offer(RX, buffer, &[(at, 1024, WRITE)]);
    }
    card.wires[0].send(&frame(9000, 1)).unwrap();
    let used: Vec<_> = (0..9)
        .map(|_| card.driver.wait_used(RX, PATIENCE).unwrap())
        .collect();
    assert_eq!(used[0], (0, 1024));
    assert_eq!(used[8], (8, 9012 - 8 * 1024));
    let got = card.driver.arena.read(into, 9012);
    assert_eq!((got[10], &got[12..]), (9, &frame(9000, 1)[12..]));
}

#[test]
fn a_frame_waits_for_buffers_and_none_is_lost() {
    let mut card = card();
    for seed in 0..5 {
        card.wires[0].send(&frame(600, seed)).unwrap();
    }
    let into = card.driver.arena.allocate(1024);
    for seed in 0..5 {
        card.offer(RX, 0, &[(into, 400, WRITE)]);
        card.offer(RX, 1, &[(into + 400, 400, WRITE)]);
        assert_eq!(card.driver.wait_used(RX, PATIENCE), Some((0, 400)));
        assert_eq!(card.driver.wait_used(RX, PATIENCE), Some((1, 212)));
        assert_eq!(
            card.driver.arena.read(into + 12, 600),
            frame(600, seed)[12..]
        );
    }
}

#[test]
fn without_mergeable_buffers_what_is_too_large_is_dropped() {
    let mut card = card_with(1, EVENT_IDX, |_| {});
    let into = card.driver.arena.allocate(4096);
    card.offer(RX, 0, &[(into, 1000, WRITE)]);
    card.offer(RX, 1, &[(into + 1000, 1000, WRITE)]);
    card.wires[0].send(&frame(1500, 1)).unwrap();
    card.wires[0].send(&frame(500, 2)).unwrap();
    let (_, length) = card.driver.wait_used(RX, PATIENCE).unwrap();
    assert_eq!(length, 512);
}

#[test]
fn queue_pairs_are_used_as_the_driver_commands() {
    let mut card = card_with(3, EVENT_IDX | MERGEABLE | MQ, |config| {
        config.mac = Some(MacAddress([2, 0, 0, 0, 0, 7]));
        config.mtu = Some(1400);
    });
    let config = card.driver.config(12);
    assert_eq!(config, [2, 0, 0, 0, 0, 7, 1, 0, 3, 0, 120, 5]);
    let control = 6;
    for (command, answer) in [
        (&[4, 0, 3, 0][..], 0),
        (&[4, 0, 4, 0][..], 1),
        (&[4, 0, 0, 0][..], 1),
        (&[4, 0, 1][..], 1),
        (&[0, 0, 1][..], 1),
    ] {
        let at = card.driver.arena.place(command);
        let status = card.driver.arena.place(&[0xaa]);
        let buffers = [(at, command.len() as u32, 0), (status, 1, WRITE)];
        card.offer(control, 0, &buffers);
        assert_eq!(card.driver.wait_used(control, PATIENCE), Some((0, 1)));
        assert_eq!(card.driver.arena.read(status, 1), [answer], "{command:?}");
    }
    // The third pair works.
    let into = card.driver.arena.allocate(256);
    card.offer(4, 0, &[(into, 256, WRITE)]);
    card.wires[2].send(&frame(50, 1)).unwrap();
    assert_eq!(card.driver.wait_used(4, PATIENCE), Some((0, 62)));
    let out = card.driver.arena.place(&frame(50, 2));
    card.offer(5, 0, &[(out, 62, 0)]);
    assert_eq!(card.heard(2), frame(50, 2));
}

#[test]
fn without_several_pairs_the_control_queue_is_the_third() {
    let mut card = card_with(1, EVENT_IDX | 1 << 17, |_| {});
    let at = card.driver.arena.place(&[4, 0, 1, 0]);
    let status = card.driver.arena.place(&[0xaa]);
    card.offer(2, 0, &[(at, 4, 0), (status, 1, WRITE)]);
    assert_eq!(card.driver.wait_used(2, PATIENCE), Some((0, 1)));
    assert_eq!(card.driver.arena.read(status, 1), [1]);
}

#[test]
fn frames_that_are_none_are_dropped_and_others_follow() {
    let mut card = card();
    card.send(&frame(13, 0));
    card.send(&frame(65_551, 0));
    card.send(&frame(64, 1));
    assert_eq!(card.heard(0), frame(64, 1));
    assert_eq!(card.driver.read(STATUS_REGISTER), 15);
}

#[test]
fn chains_that_are_none_break_the_card_until_it_is_reset() {
    let mut card = card_with(1, MERGEABLE, |_| {});
    let bad: [(usize, &[Buffer]); 5] = [
        (TX, &[(0x5000, 11, 0)]),
        (TX, &[(0x5000, 100, WRITE)]),
        (TX, &[(u64::MAX - 3, 100, 0)]),
        (RX, &[(0x5000, 100, 0)]),
        (RX, &[(0x5000, 0, WRITE)]),
    ];
    for (queue, chain) in bad {
        card.wires[0].send(&frame(64, 1)).unwrap();
        card.offer(queue, 0, chain);
        while card.driver.read(STATUS_REGISTER) == 15 {
            assert!(card.driver.line.wait(PATIENCE), "{chain:?}");
        }
        assert_eq!(card.driver.read(STATUS_REGISTER), 15 | 64, "{chain:?}");
        card.driver.start(VERSION_1 | MERGEABLE, 64);
    }
    // A receive ring in which the same chain is offered for ever.
    card.driver.queues[RX].describe(0, (0x5000, 1, WRITE | NEXT, 0));
    card.driver.queues[RX].offer(0);
    card.driver.queues[RX].kick(1);
    card.wires[0].send(&frame(64, 1)).unwrap();
    while card.driver.read(STATUS_REGISTER) == 15 {
        assert!(card.driver.line.wait(PATIENCE));
    }
    card.driver.start(VERSION_1 | MERGEABLE, 64);
    card.send(&frame(64, 1));
    assert_eq!(card.heard(0), frame(64, 1));
}

#[test]
fn a_limited_card_takes_its_time_in_each_direction() {
    let rate = Rate {
        per_second: 100,
        burst: 1,
    };
    let mut card = card_with(1, EVENT_IDX | MERGEABLE, |config| {
        config.transmit_limit.operations = Some(rate);
        config.receive_limit.operations = Some(rate);
    });
    let began = Instant::now();
    for _ in 0..16 {
        card.send(&frame(64, 1));
    }
    assert!(began.elapsed() >= Duration::from_millis(130));
    let into = card.driver.arena.allocate(100);
    let began = Instant::now();
    for _ in 0..16 {
        card.offer(RX, 0, &[(into, 100, WRITE)]);
        card.wires[0].send(&frame(64, 1)).unwrap();
        assert!(card.driver.wait_used(RX, PATIENCE).is_some());
    }
    assert!(began.elapsed() >= Duration::from_millis(130));
}

#[test]
fn a_stream_carries_frames_after_their_lengths_and_without_headers() {
    let (mut wire, port) = std::os::unix::net::UnixStream::pair().unwrap();
    wire.set_read_timeout(Some(PATIENCE)).unwrap();
    let config = NetConfig::new(Link::Stream(port.into()));
    let mut driver = MmioDriver::new(config.device(&ThreadStart::default()).unwrap());
    driver.start(VERSION_1 | EVENT_IDX | MERGEABLE, 64);

    let at = driver.arena.place(&frame(100, 4));
    driver.queues[TX].send(0, &[(at, 112, 0)]);
    driver.queues[TX].kick(1);
    let mut got = [0; 104];
    wire.read_exact(&mut got).unwrap();
    assert_eq!(
        (&got[..4], &got[4..]),
        (&[0, 0, 0, 100][..], &frame(100, 4)[12..])
    );

    // In three parts, and two frames at once.
    let mut bytes = vec![0, 0, 0, 60];
    bytes.extend(&frame(60, 1)[12..]);
    bytes.extend([0, 0, 0, 70]);
    bytes.extend(&frame(70, 2)[12..]);
    for part in [&bytes[..2], &bytes[2..80], &bytes[80..]] {
        wire.write_all(part).unwrap();
    }
    let into = driver.arena.allocate(256);
    driver.queues[RX].send(0, &[(into, 128, WRITE)]);
    driver.queues[RX].send(1, &[(into + 128, 128, WRITE)]);
    driver.queues[RX].kick(2);
    assert_eq!(driver.wait_used(RX, PATIENCE), Some((0, 72)));
    assert_eq!(driver.wait_used(RX, PATIENCE), Some((1, 82)));
    assert_eq!(driver.arena.read(into + 12, 60), frame(60, 1)[12..]);
    assert_eq!(driver.arena.read(into + 140, 70), frame(70, 2)[12..]);
}

#[test]
fn what_is_no_card_is_refused() {
    let packets = |count| {
        let fds = (0..count).map(|_| OwnedFd::from(UnixDatagram::unbound().unwrap()));
        NetConfig::new(Link::Packets(fds.collect()))
    };
    assert!(packets(0).validate().is_err());
    assert!(packets(17).validate().is_err());
    let mut config = packets(1);
    config.mac = Some(MacAddress([1, 0, 0, 0, 0, 0]));
    assert!(config.validate().is_err());
    let mut config = packets(1);
    config.mtu = Some(67);
    assert!(config.validate().is_err());
    assert!(Tap::open("a name that is too long", 1).is_err());
    let no_tap = UnixDatagram::unbound().unwrap().into();
    assert!(Tap::from_queues(vec![no_tap]).is_err());
}

#[expect(
    deprecated,
    reason = "no descriptor is unshared, of which the new form warns"
)]
/// In a network namespace of its own, so that nothing on the host changes.
fn in_a_namespace(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let entered = rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET);
            match entered {
                Ok(()) => test(),
                Err(error) => eprintln!("skipped: no network namespace: {error}"),
            }
        });
    });
}

#[test]
fn a_tap_with_two_queues_carries_frames_both_ways() {
    in_a_namespace(|| {
        let tap = match Tap::open("kata0", 2) {
            Ok(tap) => tap,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        let up = std::process::Command::new("ip")
            .args(["link", "set", "kata0", "up"])
            .status();
        if !up.is_ok_and(|status| status.success()) {
            return eprintln!("skipped: there is no ip");
        }
        let device = NetConfig::new(Link::Tap(tap))
            .device(&ThreadStart::default())
            .unwrap();
        let mut driver = MmioDriver::new(device);
        assert_eq!(driver.offered() & (MQ | 1 << 11 | 1), MQ | 1 << 11 | 1);
        driver.start(VERSION_1 | MERGEABLE | MQ | 1 << 1 | 1 << 7 | 1, 64);

        // The host announces itself on a new link: multicast reports of IPv6.
        let into = driver.arena.allocate(64 * 2048);
        for buffer in 0..64 {
            driver.queues[RX].send(buffer, &[(into + 2048 * u64::from(buffer), 2048, WRITE)]);
        }
        driver.queues[RX].kick(64);
        let received = driver.wait_used(RX, PATIENCE);
        if received.is_none() {
            eprintln!("skipped: this host says nothing on a new link");
        }

        // What the guest sends is counted by the host.
        let mut bytes = frame(64, 0);
        bytes[12..24].fill(0xff);
        let at = driver.arena.place(&bytes);
        driver.queues[TX].send(0, &[(at, bytes.len() as u32, 0)]);
        driver.queues[TX].kick(1);
        assert!(driver.wait_used(TX, PATIENCE).is_some());
        let mut counted = String::new();
        std::fs::File::open("/proc/thread-self/net/dev")
            .unwrap()
            .read_to_string(&mut counted)
            .unwrap();
        let line = counted.lines().find(|line| line.contains("kata0")).unwrap();
        let packets = line.split_whitespace().nth(2).unwrap();
        assert_eq!(packets, "1", "{line}");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever a driver writes, the card goes on after a reset.
    #[test]
    fn no_chain_harms_the_card(
        descriptors in prop::collection::vec((0u64..0x9000, 0u32..9000, 0u16..8, 0u16..20), 1..16),
        heads in prop::collection::vec((0usize..3, 0u16..20), 1..16),
    ) {
        let mut card = card();
        for (at, descriptor) in descriptors.iter().enumerate() {
            for queue in 0..3 {
                card.driver.queues[queue].describe(at as u16, *descriptor);
            }
        }
        for (queue, head) in &heads {
            card.driver.queues[*queue].offer(*head);
            card.driver.queues[*queue].kick.signal();
            card.wires[0].send(&frame(64, 1)).unwrap();
        }
        card.driver.start(VERSION_1 | EVENT_IDX | MERGEABLE, 64);
        card.send(&frame(777, 7));
        // What the hostile driver sent came first.
        while card.heard(0) != frame(777, 7) {}
    }
}
