//! Block devices of the host that containers have as disks.
//!
//! A disk is attached once however many containers have it, under a serial
//! number by which the guest finds it. Those that the sandbox was described with
//! stay; the others go with the last container that has them.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use kata_hypervisor::{DiskConfig, Vm};
use tokio::sync::Mutex;

use crate::error::{Context, ErrorKind, Result};
use crate::spec::disk_id;

/// A disk that a container asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// What asks for it, such as `linux.devices[0]`.
    pub(super) field: String,
    /// The image or device.
    pub(super) path: PathBuf,
    /// Whether it is only to be read.
    pub(super) read_only: bool,
}

/// By which a disk is known, whatever its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    /// A block device, by its number.
    Device(u64),
    /// A file, by its file system and inode.
    File(u64, u64),
}

impl Key {
    fn of(path: &Path) -> std::io::Result<Self> {
        let found = std::fs::metadata(path)?;
        Ok(if found.file_type().is_block_device() {
            Self::Device(found.rdev())
        } else {
            Self::File(found.dev(), found.ino())
        })
    }
}

#[derive(Debug)]
struct Entry {
    key: Key,
    id: String,
    read_only: bool,
    /// Containers that have it.
    users: usize,
    /// Whether it goes with the last of them.
    plugged: bool,
}

/// The disks of a sandbox.
#[derive(Debug)]
pub(super) struct Disks {
    /// Held while one is attached or detached.
    entries: Mutex<Vec<Entry>>,
}

impl Disks {
    /// Those that are there from the start.
    pub(super) fn new(there: &[DiskConfig]) -> Self {
        let entry = |disk: &DiskConfig| {
            // The machine has it open; one that is gone since is asked for by nobody.
            let key = Key::of(&disk.path).ok()?;
            Some(Entry {
                key,
                id: disk.id.clone(),
                read_only: disk.read_only,
                users: 0,
                plugged: false,
            })
        };
        Self {
            entries: Mutex::new(there.iter().filter_map(entry).collect()),
        }
    }

    /// Attaches a disk for a container, unless it is attached, and answers its
    /// serial number.
    pub(super) async fn claim(
        &self,
        vm: &dyn Vm,
        wanted: &Wanted,
        context: &Context,
    ) -> Result<String> {
        let (field, path) = (&wanted.field, wanted.path.display());
        let key = Key::of(&wanted.path)
            .map_err(|e| context.io(format!("{field} is {path}, which cannot be used"), e))?;
        let mut entries = self.entries.lock().await;
        if let Some(entry) = entries.iter_mut().find(|entry| entry.key == key) {
            if entry.read_only && !wanted.read_only {
                let reason = format!("{field} is {path}, which the sandbox has read-only");
                return Err(context.error(ErrorKind::Denied, reason));
            }
            entry.users += 1;
            return Ok(entry.id.clone());
        }
        let Some(plug) = vm.disks() else {
            let reason = format!(
                "{field} is {path}, and this sandbox's machine takes no disks while it runs"
            );
            let error = context.error(ErrorKind::Unsupported, reason);
            return Err(error.with_remedy(
                "name it with SandboxBuilder::disk, leave room with SandboxBuilder::spare_disks, \
                 or mount it on the host and share it, as with Rootfs::Dir",
            ));
        };
        let is_free = |id: &String| entries.iter().all(|entry| entry.id != *id);
        let id = (0..)
            .map(disk_id)
            .find(is_free)
            .expect("numbers do not end");
        let disk = DiskConfig {
            id: id.clone(),
            path: wanted.path.clone(),
            read_only: wanted.read_only,
        };
        plug.attach(disk).await.map_err(|e| context.vm(e))?;
        entries.push(Entry {
            key,
            id: id.clone(),
            read_only: wanted.read_only,
            users: 1,
            plugged: true,
        });
        Ok(id)
    }

    /// A container no longer has that disk.
    pub(super) async fn release(&self, vm: &dyn Vm, id: &str) -> kata_hypervisor::Result<()> {
        let mut entries = self.entries.lock().await;
        let Some(index) = entries.iter().position(|entry| entry.id == id) else {
            return Ok(());
        };
        entries[index].users = entries[index].users.saturating_sub(1);
        if entries[index].users > 0 || !entries[index].plugged {
            return Ok(());
        }
        if let Some(plug) = vm.disks() {
            plug.detach(id).await?;
        }
        entries.remove(index);
        Ok(())
    }
}

/// Where the guest finds a disk.
pub(super) fn address(id: &str) -> String {
    format!("serial:{id}")
}

/// The node of the host's block device of that number.
pub(super) fn node_of(major: i64, minor: i64) -> Option<PathBuf> {
    node_in(Path::new("/sys"), Path::new("/dev"), major, minor)
}

fn node_in(sys: &Path, dev: &Path, major: i64, minor: i64) -> Option<PathBuf> {
    let uevent = sys.join(format!("dev/block/{major}:{minor}/uevent"));
    let uevent = std::fs::read_to_string(uevent).ok()?;
    let name = uevent
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="))?;
    let path = dev.join(name);
    let found = std::fs::metadata(&path).ok()?;
    // What has the device's name need not be the device.
    let number = u32::try_from(major).ok().zip(u32::try_from(minor).ok());
    let (major, minor) = number?;
    let same = found.rdev() == rustix::fs::makedev(major, minor);
    (found.file_type().is_block_device() && same).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_the_same_by_every_path() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("a"), directory.path().join("b"));
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(Key::of(&file).unwrap(), Key::of(&link).unwrap());
        assert!(Key::of(&directory.path().join("c")).is_err());
    }

    #[test]
    fn a_node_of_another_number_is_not_taken_for_the_device() {
        use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let about = at("sys/dev/block/240:7");
        std::fs::create_dir_all(&about).unwrap();
        std::fs::write(about.join("uevent"), "MAJOR=240\nDEVNAME=disk\n").unwrap();
        std::fs::create_dir(at("dev")).unwrap();
        let node = at("dev/disk");
        for (minor, expected) in [(8, None), (7, Some(node.clone()))] {
            let _ = std::fs::remove_file(&node);
            // Not opened, and so none that there must be.
            let number = makedev(240, minor);
            let made = mknodat(CWD, &node, FileType::BlockDevice, Mode::RUSR, number);
            if let Err(error) = made {
                return eprintln!("skipped: no device nodes can be made here: {error}");
            }
            assert_eq!(node_in(&at("sys"), &at("dev"), 240, 7), expected);
        }
    }

    #[test]
    fn a_number_that_no_device_has_leads_nowhere() {
        assert_eq!(node_of(4095, 1), None);
        assert_eq!(node_of(-1, -1), None);
    }
}
