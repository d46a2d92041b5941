//! Disks that somebody has, us or QEMU.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::Error;
use crate::blk::BlkConfig;
use crate::vhost::VhostUserConfig;
use crate::virtio::{ThreadStart, VirtioDevice};

fn image() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    file
}

fn open(path: &Path, read_only: bool) -> crate::Result<Box<dyn VirtioDevice>> {
    let config = BlkConfig {
        read_only,
        ..BlkConfig::new(path)
    };
    config.device(&ThreadStart::default())
}

fn refused(path: &Path, read_only: bool) {
    match open(path, read_only).err() {
        Some(Error::DiskInUse { path: named, .. }) => assert_eq!(named, path),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_disk_is_writable_once_or_read_by_many() {
    let image = image();
    let path = image.path();
    let writer = open(path, false).unwrap();
    refused(path, false);
    refused(path, true);
    let error = open(path, false).err().unwrap().to_string();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    // By another name it is the same.
    let name = path.with_extension("link");
    std::fs::hard_link(path, &name).unwrap();
    refused(&name, false);
    std::fs::remove_file(name).unwrap();
    // With the device it is free.
    drop(writer);
    let readers = [open(path, true).unwrap(), open(path, true).unwrap()];
    refused(path, false);
    drop(readers);
    open(path, false).unwrap();
}

/// QEMU's storage daemon, which has an image.
struct Daemon(Child);

impl Daemon {
    /// `None`, aloud, where there is none. It may end by itself.
    fn start(path: &Path, read_only: bool, listener: UnixListener) -> Option<Self> {
        let node = format!(
            "driver=file,node-name=d,filename={},read-only={}",
            path.display(),
            if read_only { "on" } else { "off" }
        );
        let export = format!(
            "type=vhost-user-blk,id=e,node-name=d,writable={},addr.type=fd,addr.str=0",
            if read_only { "off" } else { "on" }
        );
        let child = Command::new("qemu-storage-daemon")
            .args(["--blockdev", &node, "--export", &export])
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stderr(Stdio::piped())
            .spawn();
        child
            .inspect_err(|error| eprintln!("skipped: qemu-storage-daemon: {error}"))
            .ok()
            .map(Self)
    }

    /// Waits until it serves the image, and so has it.
    fn serves(path: &Path, read_only: bool) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let daemon = Self::start(path, read_only, listener)?;
        let front_end = VhostUserConfig::blk(&socket, 1);
        front_end.device(&ThreadStart::default()).unwrap();
        Some(daemon)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_image_that_qemu_writes_is_left_to_it() {
    let image = image();
    let Some(daemon) = Daemon::serves(image.path(), false) else {
        return;
    };
    refused(image.path(), false);
    refused(image.path(), true);
    drop(daemon);
    open(image.path(), false).unwrap();
}

#[test]
fn an_image_that_qemu_reads_is_read() {
    let image = image();
    let Some(_daemon) = Daemon::serves(image.path(), true) else {
        return;
    };
    open(image.path(), true).unwrap();
}

#[test]
fn qemu_leaves_to_us_what_we_write() {
    let image = image();
    let _device = open(image.path(), false).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
    let Some(mut daemon) = Daemon::start(image.path(), false, listener) else {
        return;
    };
    let mut said = String::new();
    let stderr = daemon.0.stderr.as_mut().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    assert!(!daemon.0.wait().unwrap().success());
    assert!(said.contains("lock"), "{said}");
}

/// A loop device over a file.
struct Loop(String);

impl Loop {
    /// `None`, aloud, where none can be had.
    fn over(path: &Path) -> Option<Self> {
        let set = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(path)
            .output();
        match set {
            Ok(output) if output.status.success() => {
                let name = String::from_utf8(output.stdout).unwrap();
                Some(Self(name.trim().to_owned()))
            }
            other => {
                eprintln!("skipped: no loop device: {other:?}");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_block_device_is_one_disk_by_every_node() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::os::unix::fs::MetadataExt;
    let image = image();
    let Some(device) = Loop::over(image.path()) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other");
    let number = std::fs::metadata(&device.0).unwrap().rdev();
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, &other, FileType::BlockDevice, mode, number).unwrap();
    let Ok(writer) = open(Path::new(&device.0), false) else {
        return eprintln!("skipped: {} cannot be opened", device.0);
    };
    refused(Path::new(&device.0), false);
    refused(&other, false);
    drop(writer);
    open(&other, false).unwrap();
}
