//! Disks, from the start and later.

use std::path::{Path, PathBuf};

use super::guest::Guest;
use super::machine::{Machine, Place, chain};
use super::subject::Subject;
use crate::config::VmConfig;
use crate::disk::DiskConfig;
use crate::error::Error;

/// Bytes of the disks of these cases.
const SIZE: usize = 1 << 20;

/// The guest reads what is on its disks, writes to the one that it may write
/// to, and not to the other; what it wrote is in the file.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_disk_is_read_and_written_by_the_guest(subject: &Subject) {
    let (place, host) = (Place::new(), Place::new());
    let mut config = place.config(subject);
    for (id, read_only) in [("first", true), ("second", false)] {
        let disk = disk(&host, id, read_only);
        config.devices.disks.push(disk);
    }
    let Some(machine) = boot(subject, place, config).await else {
        return;
    };
    for id in ["first", "second"] {
        let read = machine.asked(Guest::DISKS, id).await;
        assert!(read.starts_with(&format!("disk {id}.")), "{id}: {read:?}");
    }
    let refused = machine.asked(Guest::DISKS, "first changed").await;
    assert!(refused.starts_with("error: "), "{refused:?}");
    let written = machine.asked(Guest::DISKS, "second changed").await;
    assert!(written.starts_with("changed"), "{written:?}");
    machine.assert_clean().await;
    assert!(bytes(&host.directory.join("first")).starts_with(b"disk first."));
    assert!(bytes(&host.directory.join("second")).starts_with(b"changed"));
}

/// Disks come and go while the machine runs, as many as it was said at most;
/// what is attached twice or was never there is refused.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_disk_that_is_attached_is_found_and_goes_again(subject: &Subject) {
    let (place, host) = (Place::new(), Place::new());
    let mut config = place.config(subject);
    config.devices.spare_disks = 1;
    let Some(machine) = boot(subject, place, config).await else {
        return;
    };
    let Some(disks) = machine.disks() else {
        assert!(!machine.features().disks);
        eprintln!("skipped: this backend attaches no disks");
        return;
    };
    assert!(machine.features().disks);
    for id in ["one", "two"] {
        let disk = disk(&host, id, false);
        disks.attach(disk.clone()).await.expect("attach");
        assert!(disks.attach(disk).await.is_err(), "it is there already");
        let more = self::disk(&host, "more", false);
        assert!(disks.attach(more).await.is_err(), "there is no room");
        let found = |answer: &str| answer.starts_with(&format!("disk {id}."));
        let read = machine.asked_until(Guest::DISKS, id, found).await;
        assert!(found(&read), "{id}: {read:?}");
        let written = machine.asked(Guest::DISKS, &format!("{id} changed")).await;
        assert!(written.starts_with("changed"), "{written:?}");
        disks.detach(id).await.expect("detach");
        assert!(bytes(&host.directory.join(id)).starts_with(b"changed"));
        let gone = machine.asked(Guest::DISKS, id).await;
        assert!(gone.starts_with("error: "), "{gone:?}");
        assert!(disks.detach(id).await.is_err(), "it is gone already");
    }
    let nowhere = DiskConfig {
        id: "nowhere".into(),
        path: host.directory.join("nowhere"),
        read_only: true,
    };
    assert!(disks.attach(nowhere).await.is_err(), "it is not there");
    machine.assert_clean().await;
}

/// A disk that a machine may write is no other machine's, until that machine has
/// been stopped.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_disk_that_is_written_belongs_to_one_machine(subject: &Subject) {
    let host = Place::new();
    let written = disk(&host, "written", false);
    let with_disk = |place: &Place, read_only| {
        let mut config = place.config(subject);
        let mut disk = written.clone();
        disk.read_only = read_only;
        config.devices.disks.push(disk);
        config
    };
    let place = Place::new();
    let config = with_disk(&place, false);
    let Some(machine) = boot(subject, place, config).await else {
        return;
    };
    for read_only in [false, true] {
        let place = Place::new();
        let config = with_disk(&place, read_only);
        let error = match Machine::of(subject, place, config).await {
            Err(error) => chain(&error),
            Ok(_) => panic!("two machines have one disk"),
        };
        let told = error.contains("in use") || error.contains("lock");
        assert!(told, "{error}");
    }
    machine.assert_clean().await;
    let place = Place::new();
    let config = with_disk(&place, false);
    let next = boot(subject, place, config).await;
    next.expect("it is free").assert_clean().await;
}

fn disk(host: &Place, id: &str, read_only: bool) -> DiskConfig {
    let path: PathBuf = host.directory.join(id);
    let mut bytes = format!("disk {id}.").into_bytes();
    bytes.resize(SIZE, b'.');
    std::fs::write(&path, bytes).expect("the directory is writable");
    DiskConfig {
        id: id.to_owned(),
        path,
        read_only,
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("the disk's file is there")
}

async fn boot(subject: &Subject, place: Place, config: VmConfig) -> Option<Machine> {
    match Machine::of(subject, place, config).await {
        Ok(machine) => Some(machine.up().await),
        Err(Error::Unsupported { .. }) => {
            eprintln!("skipped: this backend has no disks");
            None
        }
        Err(error) => panic!("create: {}", chain(&error)),
    }
}
