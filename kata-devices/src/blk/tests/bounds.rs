//! What a guest may ask for at once, and how long that keeps others waiting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX};

use super::{Disk, FLUSH, disk_that_knows, disk_with};
use crate::blk::{Blk, BlkConfig, IoEngine};
use crate::epoll::Epoll;
use crate::rate::Rate;
use crate::testing::{Arena, Buffer, DriverQueue, TABLE, WRITE};
use crate::virtio::Driven;

const MIB: u32 = 1 << 20;
/// The largest piece, and how many of them a request has at most.
const PIECE: u32 = 64 << 10;
const PIECES: usize = 254;

/// So many pieces that are one and the same place.
fn pieces(at: u64, length: u32, count: usize, flags: u16) -> Vec<Buffer> {
    vec![(at, length, flags); count]
}

impl Disk {
    /// As `request`, by a table of descriptors.
    fn request_by_table(&mut self, kind: u32, data: &[Buffer]) -> u8 {
        let header = self.header(kind, 0);
        let status = self.driver.arena.place(&[0xaa]);
        let mut chain = vec![(header, 16, 0)];
        chain.extend(data);
        chain.push((status, 1, WRITE));
        let table = self.driver.arena.allocate(16 * chain.len());
        let queue = &mut self.driver.queues[0];
        queue.describe_table(table, &chain);
        queue.describe(0, (table, 16 * chain.len() as u32, TABLE, 0));
        queue.offer(0);
        queue.kick(1);
        let used = self.driver.wait_used(0, super::PATIENCE);
        used.expect("an answer");
        self.driver.arena.read(status, 1)[0]
    }
}

/// The description of a range, for discards and zeroes.
pub(super) fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

#[test]
fn a_driver_is_told_how_large_requests_may_be() {
    let disk = disk_with(|_| {});
    let offered = disk.driver.offered();
    let both = 1 << VIRTIO_BLK_F_SIZE_MAX | 1 << VIRTIO_BLK_F_SEG_MAX;
    assert_eq!(offered & both, both);
    let config = disk.driver.config(60);
    assert_eq!(config[8..12], PIECE.to_le_bytes());
    assert_eq!(config[12..16], (PIECES as u32).to_le_bytes());
    // A discard of 64 MiB; zeroes, which may have to be written, of a request's size.
    assert_eq!(config[36..40], (64 * MIB / 512).to_le_bytes());
    assert_eq!(config[48..52], (PIECE / 512 * PIECES as u32).to_le_bytes());
}

#[test]
fn what_is_larger_than_a_driver_was_told_is_refused() {
    for engine in [IoEngine::Sequential, IoEngine::Auto] {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        let mut disk = disk_that_knows(FLUSH | 1 << VIRTIO_BLK_F_SIZE_MAX, |config| {
            config.path = file.path().to_owned();
            config.engine = engine;
        });
        let at = disk.driver.arena.allocate(MIB as usize);
        for flags in [0, WRITE] {
            let kind = u32::from(flags == 0);
            let most = pieces(at, PIECE, PIECES, flags);
            assert_eq!(disk.request_by_table(kind, &most), 0, "the most");
            let many = pieces(at, 512, PIECES + 1, flags);
            assert_eq!(disk.request_by_table(kind, &many), 1, "pieces");
            let large = pieces(at, PIECE + 512, 1, flags);
            assert_eq!(disk.request_by_table(kind, &large), 1, "a piece");
        }
        for (kind, sectors) in [(11, 64 * MIB / 512 + 1), (13, 16 * MIB / 512)] {
            let range = disk.driver.arena.place(&range(0, sectors, 0));
            assert_eq!(disk.request(kind, 0, &[(range, 16, 0)]).0, 1, "{kind}");
        }
    }
}

#[test]
fn a_driver_that_was_not_told_may_send_large_pieces_but_no_more_in_all() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(64 << 20).unwrap();
    let mut disk = disk_with(|config| config.path = file.path().to_owned());
    let at = disk.driver.arena.allocate(16 * MIB as usize);
    assert_eq!(disk.request_by_table(0, &[(at, 15 * MIB, WRITE)]), 0);
    assert_eq!(disk.request_by_table(0, &[(at, 16 * MIB, WRITE)]), 1);
    let many = pieces(at, MIB, 60, WRITE);
    assert_eq!(disk.request_by_table(0, &many), 1);
}

/// A disk in the hands of a test, and its driver's queue.
fn by_hand(engine: IoEngine, arena: &mut Arena) -> (Blk, DriverQueue, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(64 << 20).unwrap();
    let config = BlkConfig {
        engine,
        ..BlkConfig::new(file.path())
    };
    let mut blk = Blk::new(&config, &Arc::new(Epoll::new().unwrap())).unwrap();
    let queue = DriverQueue::new(arena, 256, true);
    blk.negotiated(FLUSH);
    blk.start(0, queue.device_queue()).unwrap();
    (blk, queue, file)
}

/// How many of 60 requests, all offered at once, a turn of the device ends; and
/// turns until all have.
fn turns_of(kind: u32, data: &[Buffer], arena: &mut Arena) -> (usize, usize) {
    let (mut blk, mut queue, _file) = by_hand(IoEngine::Sequential, arena);
    let header = arena.place(&[&kind.to_le_bytes()[..], &[0; 12]].concat());
    for first in 0..60 {
        let mut chain = vec![(header, 16, 0)];
        chain.extend(data);
        chain.push((0x900, 1, WRITE));
        queue.send(first * 4, &chain);
    }
    let mut ended = Vec::new();
    loop {
        let more = blk.proceed();
        ended.push(std::iter::from_fn(|| queue.used()).count());
        if !more {
            break;
        }
        assert!(ended.len() < 1000, "it gets nowhere");
    }
    assert_eq!(ended.iter().sum::<usize>(), 60, "{ended:?}");
    (ended[0], ended.len())
}

#[test]
fn a_turn_is_short_whatever_is_asked_for() {
    let mut arena = Arena::new();
    let large = arena.allocate(15 * MIB as usize);
    let zeroes = arena.place(&range(0, 15 * MIB / 512, 0));
    let discard = arena.place(&range(0, 64 * MIB / 512, 0));
    for (kind, data) in [
        (0, vec![(large, 15 * MIB, WRITE)]),
        (1, vec![(large, 15 * MIB, 0)]),
        (13, vec![(zeroes, 16, 0)]),
    ] {
        let (first, turns) = turns_of(kind, &data, &mut arena);
        assert!(first <= 2 && turns >= 30, "{kind}: {first} in {turns}");
    }
    for (kind, data) in [(4, vec![]), (11, vec![(discard, 16, 0)])] {
        let (first, turns) = turns_of(kind, &data, &mut arena);
        assert!(first <= 16 && turns >= 4, "{kind}: {first} in {turns}");
    }
    // Small ones are not held up.
    let (first, _) = turns_of(0, &[(large, 4096, WRITE)], &mut arena);
    assert_eq!(first, 60);
}

#[test]
fn no_more_is_under_way_than_a_pause_can_wait_for() {
    if let Err(error) = io_uring::IoUring::new(8) {
        return eprintln!("skipped: io_uring: {error}");
    }
    let mut arena = Arena::new();
    let large = arena.allocate(15 * MIB as usize);
    let (mut blk, mut queue, _file) = by_hand(IoEngine::IoUring, &mut arena);
    let header = arena.place(&[0; 16]);
    for first in 0..60 {
        let chain = [(header, 16, 0), (large, 15 * MIB, WRITE), (0x900, 1, WRITE)];
        queue.send(first * 3, &chain);
    }
    blk.proceed();
    // What was begun ends; the rest is left where it is.
    let stopped = blk.quiesce(0).unwrap().unwrap();
    let ended = std::iter::from_fn(|| queue.used()).count();
    assert!((1..=4).contains(&ended), "{ended}");
    blk.start(0, stopped).unwrap();
    let mut rest = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    while rest < 60 - ended {
        blk.proceed();
        let queue_of_ours = blk.quiesce(0).unwrap().unwrap();
        blk.start(0, queue_of_ours).unwrap();
        rest += std::iter::from_fn(|| queue.used()).count();
        assert!(Instant::now() < deadline, "it gets nowhere");
    }
}

#[test]
fn zeroes_count_as_what_they_are() {
    let mut disk = disk_with(|config| {
        config.rate_limit.bytes = Some(Rate {
            per_second: 10 << 20,
            burst: 1 << 20,
        });
    });
    let range = disk.driver.arena.place(&range(0, MIB / 512, 0));
    let into = disk.driver.arena.allocate(MIB as usize);
    let began = Instant::now();
    for _ in 0..2 {
        assert_eq!(disk.request(13, 0, &[(range, 16, 0)]).0, 0);
        assert_eq!(disk.request(0, 0, &[(into, MIB, WRITE)]).0, 0);
    }
    // Four MiB, of which one is free and the last is paid for by whoever is next.
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(180), "{took:?}");
}
