//! Disks through real rings on virtio-mmio, with either engine.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the numbers of a test are small"
)]

mod bounds;
mod holes;
mod sharing;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{BlkConfig, IoEngine};
use crate::rate::Rate;
use crate::testing::{Buffer, MmioDriver, NEXT, SECOND_REGION, TABLE, WRITE};
use crate::virtio::ThreadStart;

const PATIENCE: Duration = Duration::from_secs(30);
const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;
const FLUSH: u64 = 1 << 9;
const SIZE: u64 = 4 << 20;
const STATUS_REGISTER: u32 = 0x70;

struct Disk {
    driver: MmioDriver,
    file: tempfile::NamedTempFile,
}

fn disk_with(change: impl FnOnce(&mut BlkConfig)) -> Disk {
    disk_that_knows(FLUSH, change)
}

/// A disk whose driver has agreed on these features too.
fn disk_that_knows(features: u64, change: impl FnOnce(&mut BlkConfig)) -> Disk {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SIZE).unwrap();
    let mut config = BlkConfig::new(file.path());
    change(&mut config);
    let device = config.device(&ThreadStart::default()).unwrap();
    let mut driver = MmioDriver::new(device);
    driver.start(VERSION_1 | EVENT_IDX | features, 64);
    Disk { driver, file }
}

/// A disk with each engine that this host has.
fn disks() -> Vec<Disk> {
    let mut disks = vec![disk_with(|config| config.engine = IoEngine::Sequential)];
    let ring = io_uring::IoUring::new(8);
    match ring {
        Ok(_) => disks.push(disk_with(|config| config.engine = IoEngine::IoUring)),
        Err(error) => eprintln!("skipped: io_uring: {error}"),
    }
    disks
}

impl Disk {
    fn header(&mut self, kind: u32, sector: u64) -> u64 {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(sector.to_le_bytes());
        self.driver.arena.place(&bytes)
    }

    /// A request with these data buffers; gives status and written bytes.
    fn request(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> (u8, u32) {
        let header = self.header(kind, sector);
        let status = self.driver.arena.place(&[0xaa]);
        let mut chain = vec![(header, 16, 0)];
        chain.extend(data);
        chain.push((status, 1, WRITE));
        self.driver.queues[0].send(0, &chain);
        self.driver.queues[0].kick(1);
        let (_, written) = self.driver.wait_used(0, PATIENCE).expect("an answer");
        (self.driver.arena.read(status, 1)[0], written)
    }

    fn contents(&mut self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let file = self.file.as_file_mut();
        file.seek(SeekFrom::Start(offset)).unwrap();
        file.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn fill(&mut self, byte: u8) {
        let file = self.file.as_file_mut();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(&vec![byte; SIZE as usize]).unwrap();
        file.sync_all().unwrap();
    }

    fn device_status(&self) -> u32 {
        self.driver.read(STATUS_REGISTER)
    }
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 ^ seed).collect()
}

#[test]
fn what_is_written_is_on_the_disk_and_read_back() {
    for mut disk in disks() {
        let data = pattern(3 * 4096, 7);
        let at = disk.driver.arena.place(&data);
        let scattered = [(at, 100, 0), (at + 100, 4096, 0), (at + 4196, 8092, 0)];
        assert_eq!(disk.request(1, 8, &scattered), (0, 1));
        assert_eq!(disk.request(4, 0, &[]), (0, 1));
        assert_eq!(disk.contents(8 * 512, data.len()), data);

        let into = disk.driver.arena.allocate(data.len());
        let buffers = [(into, 512, WRITE), (into + 512, 11776, WRITE)];
        assert_eq!(disk.request(0, 8, &buffers), (0, 12289));
        assert_eq!(disk.driver.arena.read(into, data.len()), data);
    }
}

#[test]
fn headers_and_status_may_share_buffers_with_data() {
    for mut disk in disks() {
        let mut bytes = 1u32.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(5u64.to_le_bytes());
        bytes.extend(pattern(512, 1));
        let out = disk.driver.arena.place(&bytes);
        let status = disk.driver.arena.place(&[9]);
        let chain = [(out, 7, 0), (out + 7, 521, 0), (status, 1, WRITE)];
        disk.driver.queues[0].send(0, &chain);
        disk.driver.queues[0].kick(1);
        assert!(disk.driver.wait_used(0, PATIENCE).is_some());
        assert_eq!(disk.contents(5 * 512, 512), pattern(512, 1));

        let header = disk.header(0, 5);
        let into = disk.driver.arena.allocate(513);
        disk.driver.queues[0].send(0, &[(header, 16, 0), (into, 513, WRITE)]);
        disk.driver.queues[0].kick(1);
        assert_eq!(disk.driver.wait_used(0, PATIENCE).unwrap().1, 513);
        let got = disk.driver.arena.read(into, 513);
        assert_eq!((&got[..512], got[512]), (&pattern(512, 1)[..], 0));
    }
}

#[test]
fn an_indirect_table_is_followed() {
    for mut disk in disks() {
        disk.fill(0x5a);
        let header = disk.header(0, 0);
        let into = disk.driver.arena.allocate(1024 + 1);
        let table = disk.driver.arena.allocate(48);
        let queue = &mut disk.driver.queues[0];
        queue.describe_at(table, (header, 16, NEXT, 1));
        queue.describe_at(table + 16, (into, 1024, NEXT | WRITE, 2));
        queue.describe_at(table + 32, (into + 1024, 1, WRITE, 0));
        queue.describe(3, (table, 48, TABLE, 0));
        queue.offer(3);
        queue.kick(1);
        assert_eq!(disk.driver.wait_used(0, PATIENCE), Some((3, 1025)));
        assert_eq!(disk.driver.arena.read(into, 1024), vec![0x5a; 1024]);
    }
}

#[test]
fn discards_and_zeroes_are_read_as_zeroes() {
    for mut disk in disks() {
        for (kind, flags) in [(11, 0), (13, 0), (13, 1)] {
            disk.fill(0xff);
            let mut range = 16u64.to_le_bytes().to_vec();
            range.extend(2048u32.to_le_bytes());
            range.extend(u32::to_le_bytes(flags));
            let at = disk.driver.arena.place(&range);
            let (status, _) = disk.request(kind, 0, &[(at, 16, 0)]);
            assert_eq!(status, 0, "{kind} {flags}");
            let end = 16 * 512 + 2048 * 512;
            assert_eq!(disk.contents(16 * 512, 2048 * 512), vec![0; 2048 * 512]);
            assert_eq!(disk.contents(16 * 512 - 1, 1), [0xff]);
            assert_eq!(disk.contents(end, 1), [0xff]);
        }
    }
}

#[test]
fn a_driver_without_flush_is_answered_once_zeroes_are_on_the_disk() {
    let mut engines = vec![IoEngine::Sequential];
    engines.extend(io_uring::IoUring::new(8).ok().map(|_| IoEngine::IoUring));
    for engine in engines {
        let mut disk = disk_that_knows(0, |config| config.engine = engine);
        disk.fill(0x77);
        for (kind, sector) in [(11, 8_u64), (13, 24)] {
            let mut segment = sector.to_le_bytes().to_vec();
            segment.extend(8_u32.to_le_bytes());
            segment.extend([0; 4]);
            let segment = disk.driver.arena.place(&segment);
            assert_eq!(disk.request(kind, 0, &[(segment, 16, 0)]), (0, 1));
            assert_eq!(disk.contents(sector * 512, 4096), vec![0; 4096]);
        }
    }
}

#[test]
fn a_discard_gives_space_back() {
    let mut disk = disk_with(|_| {});
    disk.fill(1);
    let before = disk.file.as_file().metadata().unwrap().blocks();
    let mut range = 0u64.to_le_bytes().to_vec();
    range.extend((SIZE as u32 / 512).to_le_bytes());
    range.extend([0; 4]);
    let at = disk.driver.arena.place(&range);
    assert_eq!(disk.request(11, 0, &[(at, 16, 0)]).0, 0);
    let after = disk.file.as_file().metadata().unwrap().blocks();
    assert!(after < before / 4, "{before} blocks, then {after}");
}

#[test]
fn the_serial_number_and_the_configuration_are_told() {
    let mut disk = disk_with(|config| {
        config.serial = "pod-disk-0".into();
        config.queues = 2;
        config.topology.logical_block = 4096;
    });
    let into = disk.driver.arena.allocate(20);
    assert_eq!(disk.request(8, 0, &[(into, 20, WRITE)]), (0, 21));
    assert_eq!(disk.driver.arena.read(into, 11), b"pod-disk-0\0");
    let config = disk.driver.config(36);
    assert_eq!(config[..8], (SIZE / 512).to_le_bytes());
    assert_eq!(config[20..24], 4096u32.to_le_bytes());
    assert_eq!(config[34], 2);
    assert_ne!(disk.driver.offered() & 1 << 12, 0);
}

#[test]
fn what_is_out_of_range_fails_and_harms_nothing() {
    for mut disk in disks() {
        disk.fill(3);
        let at = disk.driver.arena.place(&[0xee; 1024]);
        let last = SIZE / 512 - 1;
        for sector in [last, last + 1, u64::MAX, u64::MAX / 512, 1 << 55] {
            assert_eq!(disk.request(1, sector, &[(at, 1024, 0)]).0, 1, "{sector}");
            assert_eq!(disk.request(0, sector, &[(at, 1024, WRITE)]).0, 1);
        }
        for length in [1, 511, 513] {
            assert_eq!(disk.request(1, 0, &[(at, length, 0)]).0, 1, "{length}");
        }
        // No data at all; data of the wrong direction; a short serial number.
        assert_eq!(disk.request(0, 0, &[]).0, 1);
        assert_eq!(disk.request(1, 0, &[]).0, 1);
        assert_eq!(disk.request(0, 0, &[(at, 512, 0)]).0, 1);
        assert_eq!(disk.request(8, 0, &[(at, 19, WRITE)]).0, 1);
        assert_eq!(disk.request(77, 0, &[]).0, 2);
        for range in [[0u8; 16], [0xff; 16]] {
            let range = disk.driver.arena.place(&range);
            assert_eq!(disk.request(11, 0, &[(range, 16, 0)]).0, 1);
            assert_eq!(disk.request(13, 0, &[(range, 15, 0)]).0, 1);
        }
        assert_eq!(disk.contents(0, SIZE as usize), vec![3; SIZE as usize]);
        assert_eq!(disk.device_status(), 15);
    }
}

#[test]
fn a_read_only_disk_is_not_written() {
    let mut disk = disk_with(|config| config.read_only = true);
    assert_eq!(disk.driver.offered() & (1 << 5 | 1 << 13), 1 << 5);
    let at = disk.driver.arena.place(&[1; 512]);
    assert_eq!(disk.request(1, 0, &[(at, 512, 0)]).0, 1);
    let mut range = 0u64.to_le_bytes().to_vec();
    range.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    let range = disk.driver.arena.place(&range);
    assert_eq!(disk.request(13, 0, &[(range, 16, 0)]).0, 1);
    assert_eq!(disk.request(0, 0, &[(at, 512, WRITE)]).0, 0);
    assert_eq!(disk.contents(0, 512), [0; 512]);
}

#[test]
fn chains_without_a_place_for_an_answer_break_the_device_until_it_is_reset() {
    for mut disk in disks() {
        let header = disk.header(0, 0);
        let bad: [&[Buffer]; 6] = [
            &[(header, 16, 0)],
            &[(header, 16, 0), (0x5000, 0, WRITE)],
            &[(header, 15, 0), (0x5000, 1, WRITE)],
            &[(header, 16, 0), (u64::MAX - 5, 600, WRITE)],
            &[(header, 16, 0), (SECOND_REGION - 8, 16, WRITE)],
            &[(0x5000, 1, WRITE), (header, 16, 0)],
        ];
        for chain in bad {
            disk.driver.queues[0].send(0, chain);
            disk.driver.queues[0].kick(1);
            assert!(disk.driver.line.wait(PATIENCE), "{chain:?}");
            assert_eq!(disk.device_status(), 15 | 64, "{chain:?}");
            disk.driver.start(VERSION_1 | FLUSH, 64);
        }
        // A loop, and a link to nowhere.
        for next in [0, 64, 9999] {
            disk.driver.queues[0].describe(0, (header, 16, NEXT, next));
            disk.driver.queues[0].offer(0);
            disk.driver.queues[0].kick(1);
            assert!(disk.driver.line.wait(PATIENCE), "{next}");
            assert_eq!(disk.device_status(), 15 | 64, "{next}");
            disk.driver.start(VERSION_1 | FLUSH, 64);
        }
        let into = disk.driver.arena.allocate(512);
        assert_eq!(disk.request(0, 0, &[(into, 512, WRITE)]).0, 0);
    }
}

#[test]
fn a_disk_that_shrank_fails_reads_of_what_is_gone() {
    for mut disk in disks() {
        disk.file.as_file().set_len(512).unwrap();
        let into = disk.driver.arena.allocate(1024);
        assert_eq!(disk.request(0, 0, &[(into, 1024, WRITE)]).0, 1);
        assert_eq!(disk.request(0, 0, &[(into, 512, WRITE)]).0, 0);
    }
}

#[test]
fn many_requests_of_several_queues_all_end_and_once() {
    for engine in [IoEngine::Sequential, IoEngine::Auto] {
        let mut disk = disk_with(|config| {
            config.engine = engine;
            config.queues = 3;
        });
        let data = disk.driver.arena.allocate(512);
        let header = disk.header(0, 3);
        for round in 0..20 {
            for queue in 0..3 {
                for first in 0..20 {
                    let status = disk.driver.arena.place(&[0xaa]);
                    let chain = [(header, 16, 0), (data, 512, WRITE), (status, 1, WRITE)];
                    disk.driver.queues[queue].send(first * 3, &chain);
                }
                disk.driver.queues[queue].kick(20);
            }
            for queue in 0..3 {
                let mut heads: Vec<_> = (0..20)
                    .map(|_| disk.driver.wait_used(queue, PATIENCE).expect("an answer").0)
                    .collect();
                heads.sort_unstable();
                let expected: Vec<_> = (0..20).map(|first| first * 3).collect();
                assert_eq!(heads, expected, "round {round}");
            }
        }
    }
}

#[test]
fn a_reset_in_flight_ends_everything_before_it_returns() {
    for mut disk in disks() {
        let header = disk.header(0, 0);
        let into = disk.driver.arena.allocate(1 << 20);
        for _ in 0..10 {
            for first in 0..20 {
                let chain = [(header, 16, 0), (into, 1 << 20, WRITE), (0x900, 1, WRITE)];
                disk.driver.queues[0].send(first * 3, &chain);
            }
            disk.driver.queues[0].kick(20);
            disk.driver.write(STATUS_REGISTER, 0);
            // What is written to the memory from now on stays.
            let mark = vec![0x77; 1 << 20];
            vm_memory::Bytes::write_slice(
                &**disk.driver.arena.memory(),
                &mark,
                vm_memory::GuestAddress(into),
            )
            .unwrap();
            disk.driver.start(VERSION_1 | EVENT_IDX | FLUSH, 64);
            assert_eq!(disk.driver.arena.read(into, 1 << 20), mark);
        }
    }
}

#[test]
fn a_limited_disk_takes_its_time() {
    let mut disk = disk_with(|config| {
        config.rate_limit.operations = Some(Rate {
            per_second: 100,
            burst: 5,
        });
    });
    let into = disk.driver.arena.allocate(512);
    let began = Instant::now();
    for _ in 0..25 {
        assert_eq!(disk.request(0, 0, &[(into, 512, WRITE)]).0, 0);
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(180), "{took:?}");
}

#[test]
fn what_is_no_disk_is_refused() {
    let device = |config: BlkConfig| config.device(&ThreadStart::default());
    let dir = tempfile::tempdir().unwrap();
    let missing = device(BlkConfig::new(dir.path().join("no"))).err().unwrap();
    assert!(missing.to_string().contains("open the disk"), "{missing}");
    assert!(device(BlkConfig::new("/dev/null")).is_err());
    let file = dir.path().join("disk");
    File::create(&file).unwrap();
    let with = |change: fn(&mut BlkConfig)| {
        let mut config = BlkConfig::new(&file);
        change(&mut config);
        device(config).is_err()
    };
    assert!(!with(|_| {}));
    assert!(with(|config| config.serial = "x".repeat(21)));
    assert!(with(|config| config.queues = 0));
    assert!(with(|config| config.topology.logical_block = 1000));
    assert!(with(|config| config.topology.physical_block = 256));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a driver writes, the device goes on after a reset.
    #[test]
    fn no_chain_harms_the_device(
        descriptors in prop::collection::vec((0u64..0x9000, 0u32..9000, 0u16..8, 0u16..20), 1..16),
        heads in prop::collection::vec(0u16..20, 1..16),
        bytes in prop::collection::vec(any::<u8>(), 64),
    ) {
        let mut disk = disk_with(|_| {});
        vm_memory::Bytes::write_slice(&**disk.driver.arena.memory(), &bytes, vm_memory::GuestAddress(0)).unwrap();
        for (at, descriptor) in descriptors.iter().enumerate() {
            disk.driver.queues[0].describe(at as u16, *descriptor);
        }
        for head in &heads {
            disk.driver.queues[0].offer(*head);
        }
        disk.driver.queues[0].kick.signal();
        disk.driver.start(VERSION_1 | FLUSH, 64);
        let into = disk.driver.arena.allocate(512);
        prop_assert_eq!(disk.request(0, 0, &[(into, 512, WRITE)]).0, 0);
    }
}
