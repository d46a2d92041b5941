//! Our front end against back ends: our own, and one that nobody here wrote.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{VhostNetConfig, VhostUserConfig};
use crate::blk::BlkConfig;
use crate::net::{MacAddress, Tap};
use crate::testing::{Arena, MmioDriver, WRITE};
use crate::vhost_user::Server;
use crate::virtio::ThreadStart;

const PATIENCE: Duration = Duration::from_secs(30);
const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;
const FLUSH: u64 = 1 << 9;

fn disk(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("disk");
    std::fs::write(&path, vec![0x3c; 1 << 20]).unwrap();
    path
}

fn request(driver: &mut MmioDriver, kind: u32, sector: u64, data: (u64, u32, u16)) -> u8 {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    let header = driver.arena.place(&header);
    let status = driver.arena.place(&[0xaa]);
    let mut chain = vec![(header, 16, 0), data, (status, 1, WRITE)];
    chain.retain(|buffer| buffer.1 > 0);
    driver.queues[0].send(0, &chain);
    driver.queues[0].kick(1);
    driver.wait_used(0, PATIENCE).expect("an answer");
    driver.arena.read(status, 1)[0]
}

/// Reads and writes through the front end, over a reset and a pause.
fn works(driver: &mut MmioDriver, disk: &Path) {
    assert_eq!(driver.config(8), (2048u64).to_le_bytes());
    for round in 0..3u8 {
        driver.start(VERSION_1 | EVENT_IDX & driver.offered() | FLUSH, 64);
        assert_eq!(driver.read(0x70), 15);
        let into = driver.arena.allocate(4096);
        assert_eq!(request(driver, 0, 100, (into, 4096, WRITE)), 0);
        assert_eq!(driver.arena.read(into, 4096), vec![0x3c; 4096]);
        let data = driver.arena.place(&[round; 512]);
        driver.transport.pause().unwrap();
        driver.transport.resume().unwrap();
        assert_eq!(request(driver, 1, u64::from(round), (data, 512, 0)), 0);
        assert_eq!(request(driver, 4, 0, (data, 0, 0)), 0);
        let written = std::fs::read(disk).unwrap();
        assert_eq!(written[512 * usize::from(round)..][..512], [round; 512]);
    }
}

#[test]
fn our_front_end_drives_our_back_end_and_notices_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, socket) = (disk(dir.path()), dir.path().join("socket"));
    let server = Server::blk(&BlkConfig::new(&disk), &socket).unwrap();
    let config = VhostUserConfig::blk(&socket, 1);
    let mut driver = MmioDriver::new(config.device(&ThreadStart::default()).unwrap());
    works(&mut driver, &disk);

    while driver.line.wait(Duration::ZERO) {}
    drop(server);
    assert!(driver.line.wait(PATIENCE));
    assert_eq!(driver.read(0x70), 15 | 64);
    driver.write(0x70, 0);
    assert_eq!(driver.read(0x70), 0);
    driver.start(VERSION_1, 64);
    assert_eq!(driver.read(0x70) & 64, 64, "nobody is there any more");
}

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn our_front_end_drives_qemus_storage_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, socket) = (disk(dir.path()), dir.path().join("socket"));
    // It listens before the daemon is there: whoever connects waits for an answer.
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let daemon = Command::new("qemu-storage-daemon")
        .arg("--blockdev")
        .arg(format!(
            "driver=file,node-name=d,filename={}",
            disk.display()
        ))
        .arg("--export")
        .arg("type=vhost-user-blk,id=e,node-name=d,writable=on,addr.type=fd,addr.str=0")
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .spawn();
    let _daemon = match daemon {
        Ok(child) => Daemon(child),
        Err(error) => return eprintln!("skipped: qemu-storage-daemon: {error}"),
    };
    let config = VhostUserConfig::blk(&socket, 1);
    let device = config.device(&ThreadStart::default()).unwrap();
    let mut driver = MmioDriver::new(device);
    works(&mut driver, &disk);
}

#[test]
fn a_back_end_that_is_not_there_is_an_error_that_says_where() {
    let config = VhostUserConfig::blk(Path::new("/nowhere/socket"), 1);
    let error = config.device(&ThreadStart::default()).err().unwrap();
    assert!(error.to_string().contains("/nowhere/socket"), "{error}");
    let mut config = config;
    config.queue_sizes = vec![3];
    assert!(config.device(&ThreadStart::default()).is_err());
}

#[test]
#[expect(
    deprecated,
    reason = "no descriptor is unshared, of which the new form warns"
)]
fn the_kernel_moves_frames_of_a_tap() {
    let tested = std::thread::spawn(|| {
        let entered = rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET);
        if let Err(error) = entered {
            return eprintln!("skipped: no network namespace: {error}");
        }
        let tap = match Tap::open("kata0", 1) {
            Ok(tap) => tap,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        let config = VhostNetConfig {
            tap,
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            mtu: Some(1400),
        };
        let arena = Arena::new();
        let device = match config.device(std::sync::Arc::clone(arena.memory())) {
            Ok(device) => device,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        let mut driver = MmioDriver::with_arena(device, arena);
        let up = Command::new("ip")
            .args(["link", "set", "kata0", "up"])
            .status();
        if !up.is_ok_and(|status| status.success()) {
            return eprintln!("skipped: there is no ip");
        }
        driver.start(VERSION_1 | 1 << 15, 64);
        let mut frame = vec![0; 12];
        frame.extend([0xff; 12]);
        frame.extend([0; 48]);
        let at = driver.arena.place(&frame);
        driver.queues[1].send(0, &[(at, 72, 0)]);
        driver.queues[1].kick(1);
        assert!(driver.wait_used(1, PATIENCE).is_some());
        let counted = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let line = counted.lines().find(|line| line.contains("kata0")).unwrap();
        assert_eq!(line.split_whitespace().nth(2), Some("1"), "{line}");
    });
    tested.join().unwrap();
}
