//! Discards and zeroes on files with holes, of the file systems that there are.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::bounds::range;
use super::{Disk, disk_with};
use crate::blk::IoEngine;

const KIB: u64 = 1 << 10;
const SIZE: u64 = 8 << 20;

/// Where files can be made, of several kinds: the usual place, and memory.
fn places() -> Vec<PathBuf> {
    let mut places = vec![std::env::temp_dir()];
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        places.push(memory.to_owned());
    } else {
        eprintln!("skipped: there is no {}", memory.display());
    }
    places
}

/// Data, a hole, data, a hole: 2 MiB each.
fn with_holes(place: &Path) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new_in(place).unwrap();
    file.as_file().set_len(SIZE).unwrap();
    for at in [0, SIZE / 2] {
        let data = vec![0x5a; usize::try_from(SIZE / 4).unwrap()];
        file.as_file().write_all_at(&data, at).unwrap();
    }
    file.as_file().sync_all().unwrap();
    file
}

fn kept(file: &File) -> u64 {
    file.sync_all().unwrap();
    file.metadata().unwrap().blocks() * 512
}

fn bytes(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(SIZE).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn each(test: impl Fn(&mut Disk, &File)) {
    let mut engines = vec![IoEngine::Sequential];
    engines.extend(io_uring::IoUring::new(8).ok().map(|_| IoEngine::IoUring));
    for place in places() {
        for engine in &engines {
            let file = with_holes(&place);
            let mut disk = disk_with(|config| {
                config.path = file.path().to_owned();
                config.engine = *engine;
            });
            test(&mut disk, file.as_file());
        }
    }
}

impl Disk {
    /// A discard (11) or zeroes (13) of a range that is given in bytes.
    fn over(&mut self, kind: u32, offset: u64, length: u64, flags: u32) -> u8 {
        let sectors = u32::try_from(length / 512).unwrap();
        let range = self
            .driver
            .arena
            .place(&range(offset / 512, sectors, flags));
        self.request(kind, 0, &[(range, 16, 0)]).0
    }
}

/// What the file has now: `data` but in this range.
fn but(data: &[u8], offset: u64, length: u64) -> Vec<u8> {
    let mut data = data.to_vec();
    let place = |at| usize::try_from(at).unwrap();
    data[place(offset)..place(offset + length)].fill(0);
    data
}

#[test]
fn a_discard_over_data_and_hole_leaves_a_hole() {
    each(|disk, file| {
        let (data, before) = (bytes(file), kept(file));
        assert_eq!(disk.over(11, 1024 * KIB, 2048 * KIB, 0), 0);
        assert!(bytes(file) == but(&data, 1024 * KIB, 2048 * KIB));
        let after = kept(file);
        assert!(after <= before - 1000 * KIB, "{before}, then {after}");
        // Where there is nothing, nothing is given back; and nothing goes wrong.
        assert_eq!(disk.over(11, 2048 * KIB, 1024 * KIB, 0), 0);
        assert_eq!(kept(file), after);
        assert_eq!(file.metadata().unwrap().len(), SIZE);
    });
}

#[test]
fn zeroes_that_may_be_given_back_are() {
    each(|disk, file| {
        let (data, before) = (bytes(file), kept(file));
        assert_eq!(disk.over(13, 0, SIZE / 2, 1), 0);
        assert!(bytes(file) == but(&data, 0, SIZE / 2));
        let after = kept(file);
        assert!(after <= before - 2000 * KIB, "{before}, then {after}");
    });
}

#[test]
fn zeroes_that_may_not_be_given_back_keep_their_place() {
    each(|disk, file| {
        let data = bytes(file);
        // Half of it a hole before.
        assert_eq!(disk.over(13, 1024 * KIB, 2048 * KIB, 0), 0);
        assert!(bytes(file) == but(&data, 1024 * KIB, 2048 * KIB));
        let after = kept(file);
        assert!(after >= 5 * 1024 * KIB, "{after}");
        // A range that begins and ends within blocks of any kind.
        assert_eq!(disk.over(13, SIZE / 2 + 512, 1024, 0), 0);
        let data = but(&data, 1024 * KIB, 2048 * KIB);
        assert!(bytes(file) == but(&data, SIZE / 2 + 512, 1024));
        assert_eq!(file.metadata().unwrap().len(), SIZE);
    });
}

#[test]
fn a_hole_reads_as_zeroes_and_is_filled_by_a_write() {
    each(|disk, file| {
        let into = disk.driver.arena.allocate(4096);
        let hole = SIZE / 4;
        let read = disk.request(0, hole / 512, &[(into, 4096, crate::testing::WRITE)]);
        assert_eq!(read, (0, 4097));
        assert_eq!(disk.driver.arena.read(into, 4096), vec![0; 4096]);
        let data = disk.driver.arena.place(&[7; 4096]);
        assert_eq!(disk.request(1, hole / 512, &[(data, 4096, 0)]).0, 0);
        let mut there = [0; 4097];
        file.read_exact_at(&mut there, hole).unwrap();
        assert_eq!((&there[..4096], there[4096]), (&[7; 4096][..], 0));
    });
}
