//! The guest that is started by hand: the same QEMU, machine, processors, kernel,
//! command line and memory as the sandbox's, its tap a port of the bridge, and in
//! it the same programs without containers.

use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use kata_image::cpio::{Archive, Entry};
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use super::bed::TAP;
use super::{ECHO, MEMORY, Outcome, PROCESSORS, Place};
use crate::floor::Model;

pub(super) struct ByHand {
    child: Child,
    _initramfs: NamedTempFile,
}

impl ByHand {
    /// Returns when its servers listen.
    pub(super) async fn start(model: &Model, root: &Path) -> Outcome<Self> {
        let initramfs = NamedTempFile::new()?;
        let mut archive = Archive::new();
        put(&mut archive, root, "")?;
        let (mode, bytes) = (0o755, init().into_bytes());
        archive.insert("init", Entry::File { mode, bytes });
        let (mode, major, minor) = (0o600, 5, 1);
        archive.insert("dev/console", Entry::Character { mode, major, minor });
        let bytes = archive.to_bytes().ok_or("the archive is too large")?;
        std::fs::write(&initramfs, bytes)?;
        let mut command = model.command(MEMORY, initramfs.path());
        let mut child = command.args(devices(model.has_pci())).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no pipe")?).lines();
        let mut said = String::new();
        while let Some(line) = lines.next_line().await? {
            if line.trim_end() == "ready" {
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return Ok(Self {
                    child,
                    _initramfs: initramfs,
                });
            }
            said = said + &line + "\n";
        }
        Err(format!("the guest by hand is not ready:\n{said}").into())
    }

    pub(super) async fn end(mut self) -> Outcome {
        Ok(self.child.kill().await?)
    }
}

/// What the guest runs first.
fn init() -> String {
    let (v4, v6) = (Place::BY_HAND.v4(), Place::BY_HAND.v6());
    format!(
        "#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
ip link set lo up
ip link set eth0 up
ip addr add {v4}/24 dev eth0
ip -6 addr add {v6}/64 dev eth0
/bin/guest-probe network {ECHO}
"
    )
}

/// A tap with a queue pair for each processor, offloads as they are by default:
/// all on; and the kernel's own back end where there is one.
fn devices(pci: bool) -> [String; 4] {
    let has_vhost = File::options()
        .read(true)
        .write(true)
        .open("/dev/vhost-net")
        .is_ok();
    let vhost = if has_vhost { "on" } else { "off" };
    let netdev = format!(
        "tap,id=net0,ifname={TAP},script=no,downscript=no,queues={PROCESSORS},vhost={vhost}"
    );
    let bus = if pci { "pci" } else { "device" };
    let mut device =
        format!("virtio-net-{bus},netdev=net0,mac=02:00:00:00:00:03,mq=on,rx_queue_size=1024");
    if pci {
        device += &format!(",vectors={},romfile=", 2 * PROCESSORS + 2);
    }
    ["-netdev".to_owned(), netdev, "-device".to_owned(), device]
}

/// Puts a directory and all that is in it into an archive.
fn put(archive: &mut Archive, directory: &Path, at: &str) -> Outcome {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or("a name is no text")?;
        let at = format!("{at}/{name}");
        let metadata = path.symlink_metadata()?;
        if metadata.is_dir() {
            let mode = metadata.permissions().mode() & 0o7777;
            archive.insert(&at, Entry::Directory { mode });
            put(archive, &path, &at)?;
        } else if metadata.is_symlink() {
            let target = std::fs::read_link(&path)?;
            let target = target.to_str().ok_or("a link's target is no text")?;
            archive.insert(&at, Entry::Link(target.to_owned()));
        } else {
            let mode = metadata.mode() & 0o7777;
            let bytes = std::fs::read(&path)?;
            archive.insert(&at, Entry::File { mode, bytes });
        }
    }
    Ok(())
}
