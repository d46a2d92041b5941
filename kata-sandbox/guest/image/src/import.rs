//! Images that others made: a kernel with an initramfs or a root disk, such as
//! those that Kata Containers releases.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use kata_protocol::manifest::{self, Manifest};

use crate::elf::{u16_at, u32_at};
use crate::image::{describe, write_manifest};
use crate::progress::{Progress, Report};
use crate::publish::Draft;
use crate::{BootKernel, Error};

/// What Kata Containers calls the files of its releases.
const KATA_KERNELS: [&str; 2] = ["vmlinux.container", "vmlinuz.container"];
const KATA_INITRAMFS: &str = "kata-containers-initrd.img";
const KATA_DISK: &str = "kata-containers.img";

/// A kernel with an initramfs or a disk that somebody else made, and whose agent
/// is not this project's: the runtime dials it.
#[derive(Clone, Debug)]
#[must_use]
pub struct ForeignImage {
    kernel: PathBuf,
    initramfs: Option<PathBuf>,
    disk: Option<PathBuf>,
    name: Option<String>,
    parameters: Vec<String>,
}

impl ForeignImage {
    /// The image that boots `kernel`; an initramfs or a disk is still wanted.
    pub fn new(kernel: impl Into<PathBuf>) -> Self {
        Self {
            kernel: kernel.into(),
            initramfs: None,
            disk: None,
            name: None,
            parameters: vec![],
        }
    }

    /// The image in a directory of a Kata Containers release, such as
    /// `/opt/kata/share/kata-containers`. Of initramfs and disk it takes the
    /// initramfs.
    ///
    /// # Errors
    /// When there is no kernel, or neither an initramfs nor a disk.
    pub fn from_release(directory: impl AsRef<Path>) -> Result<Self, Error> {
        let directory = directory.as_ref();
        let existing = |name: &str| Some(directory.join(name)).filter(|path| path.exists());
        let lacks =
            |what: &str| Error::ForeignImage(format!("{} has no {what}", directory.display()));
        let kernel = KATA_KERNELS.into_iter().find_map(existing);
        let image = Self::new(kernel.ok_or_else(|| lacks(&KATA_KERNELS.join(" or ")))?);
        match (existing(KATA_INITRAMFS), existing(KATA_DISK)) {
            (Some(initramfs), _) => Ok(image.initramfs(initramfs)),
            (None, Some(disk)) => Ok(image.disk(disk)),
            (None, None) => Err(lacks(&format!("{KATA_INITRAMFS} or {KATA_DISK}"))),
        }
    }

    /// The initramfs, whose `/init` starts the agent.
    pub fn initramfs(mut self, path: impl Into<PathBuf>) -> Self {
        self.initramfs = Some(path.into());
        self
    }

    /// The root disk, whose init starts the agent.
    pub fn disk(mut self, path: impl Into<PathBuf>) -> Self {
        self.disk = Some(path.into());
        self
    }

    /// What the image is called, in place of the kernel's release.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Words for the kernel's command line, after those that name the root.
    pub fn kernel_parameters(mut self, words: impl IntoIterator<Item = String>) -> Self {
        self.parameters = words.into_iter().collect();
        self
    }

    /// Writes the image to `directory`, in place of an older one.
    ///
    /// # Errors
    /// [`Error`]; `directory` is then as it was.
    pub fn import(
        &self,
        directory: impl AsRef<Path>,
        report: Report<'_>,
    ) -> Result<Manifest, Error> {
        let both = "it was given both".to_owned();
        let neither = "it was given neither of the latter".to_owned();
        let (root, mut kernel_parameters) = match (&self.initramfs, &self.disk) {
            (Some(initramfs), None) => (initramfs, vec![]),
            (None, Some(disk)) => (disk, root_parameters(disk)?),
            (Some(_), Some(_)) => return Err(Error::ForeignImage(both)),
            (None, None) => return Err(Error::ForeignImage(neither)),
        };
        kernel_parameters.extend(self.parameters.iter().cloned());
        let directory = directory.as_ref();
        report(Progress::Step(format!(
            "importing to {}",
            directory.display()
        )));
        let bytes = fs::read(&self.kernel).map_err(Error::read(&self.kernel))?;
        let kernel = BootKernel::from_bytes(bytes).map_err(|source| Error::Kernel {
            path: self.kernel.clone(),
            source,
        })?;
        let draft = Draft::begin(directory)?;
        let kernel_file = draft.write(kernel.architecture.kernel_file(), &kernel.bytes)?;
        let copy = draft.path().join(if self.disk.is_some() {
            "root.img"
        } else {
            "initramfs"
        });
        fs::copy(root, &copy).map_err(Error::read(root))?;
        let root_file = describe(&copy)?;
        let (initramfs, disk) = match self.disk {
            Some(_) => (None, Some(root_file)),
            None => (Some(root_file), None),
        };
        let name = format!("foreign-{}", kernel.release);
        let manifest = Manifest {
            version: manifest::VERSION,
            name: self.name.clone().unwrap_or(name),
            architecture: kernel.architecture.to_string(),
            kernel_release: kernel.release,
            kernel: describe(&kernel_file)?,
            initramfs,
            disk,
            virtio_mmio_command_line: kernel.virtio_mmio_command_line,
            kernel_parameters,
            agent: None,
            modules: vec![],
            provenance: self.provenance(root),
        };
        write_manifest(&draft, &manifest)?;
        draft.publish()?;
        Ok(manifest)
    }

    fn provenance(&self, root: &Path) -> BTreeMap<String, String> {
        // A release's files are links to names with versions in them.
        let name = |path: &Path| {
            let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        BTreeMap::from([
            ("kernel".into(), name(&self.kernel)),
            ("root".into(), name(root)),
        ])
    }
}

/// What tells the kernel to mount this disk, the first virtio block device.
fn root_parameters(disk: &Path) -> Result<Vec<String>, Error> {
    let mut file = fs::File::open(disk).map_err(Error::read(disk))?;
    let mut sector = |at: u64, size: usize| {
        let mut bytes = vec![];
        file.seek(SeekFrom::Start(at))
            .and_then(|_| (&mut file).take(size as u64).read_to_end(&mut bytes))
            .map_err(Error::read(disk))?;
        Ok::<_, Error>(bytes)
    };
    let start = first_partition(&sector(0, 512)?);
    let kind = file_system(&sector(start.unwrap_or(0), 2048)?);
    let kind = kind.ok_or_else(|| Error::UnknownDisk {
        path: disk.to_owned(),
    })?;
    let device = if start.is_some() {
        "/dev/vda1"
    } else {
        "/dev/vda"
    };
    Ok(vec![
        format!("root={device}"),
        format!("rootfstype={kind}"),
        "ro".into(),
    ])
}

/// Where the first partition of a disk begins; `None` without a partition table.
/// A disk with a GPT has a protective entry here, and its first partition, by
/// custom, at 1 MiB.
fn first_partition(sector: &[u8]) -> Option<u64> {
    const PROTECTIVE: u8 = 0xee;
    const TABLE: usize = 446;
    if u16_at(sector, 510)? != 0xaa55 {
        return None;
    }
    match sector.get(TABLE + 4)? {
        0 => None,
        &PROTECTIVE => Some(1 << 20),
        _ => Some(u64::from(u32_at(sector, TABLE + 8)?) * 512),
    }
}

fn file_system(start: &[u8]) -> Option<&'static str> {
    if u16_at(start, 1024 + 56) == Some(0xef53) {
        Some("ext4")
    } else if u32_at(start, 1024) == Some(0xe0f5_e1e2) {
        Some("erofs")
    } else if start.starts_with(b"XFSB") {
        Some("xfs")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::verify;
    use crate::kernel::tests::vmlinux;

    fn release(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let kernel = vmlinux("Linux version 6.12.47 (kata) virtio_mmio.device\0");
        fs::write(directory.path().join("vmlinux.container"), kernel).unwrap();
        for (name, bytes) in files {
            fs::write(directory.path().join(name), bytes).unwrap();
        }
        directory
    }

    fn ext4_disk() -> Vec<u8> {
        let mut disk = vec![0; 2 << 20];
        disk[450] = 0x83;
        disk[454..458].copy_from_slice(&2048_u32.to_le_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk[(1 << 20) + 1080..][..2].copy_from_slice(&0xef53_u16.to_le_bytes());
        disk
    }

    #[test]
    fn a_release_with_an_initramfs_is_imported() {
        let release = release(&[(KATA_INITRAMFS, b"cpio")]);
        let target = release.path().join("image");
        let image = ForeignImage::from_release(release.path()).unwrap();
        let manifest = image.import(&target, &|_| {}).unwrap();
        assert_eq!(manifest.name, "foreign-6.12.47");
        assert_eq!(
            (manifest.agent.as_ref(), manifest.disk.as_ref()),
            (None, None)
        );
        assert!(manifest.virtio_mmio_command_line);
        assert_eq!(verify(&target).unwrap(), manifest);
    }

    #[test]
    fn a_disk_says_how_it_is_mounted() {
        let release = release(&[(KATA_DISK, &ext4_disk())]);
        let target = release.path().join("image");
        let image = ForeignImage::from_release(release.path())
            .unwrap()
            .name("kata-4.1");
        let image = image.kernel_parameters(["systemd.unit=kata-containers.target".to_owned()]);
        let manifest = image.import(&target, &|_| {}).unwrap();
        let expected = [
            "root=/dev/vda1",
            "rootfstype=ext4",
            "ro",
            "systemd.unit=kata-containers.target",
        ];
        assert_eq!(manifest.kernel_parameters, expected);
        assert_eq!(manifest.name, "kata-4.1");
        assert!(manifest.disk.is_some() && manifest.initramfs.is_none());
    }

    #[test]
    fn file_systems_without_a_partition_table_are_known() {
        for (at, magic, kind) in [
            (1024, &[0xe2, 0xe1, 0xf5, 0xe0][..], "rootfstype=erofs"),
            (0, b"XFSB", "rootfstype=xfs"),
        ] {
            let mut disk = vec![0; 4096];
            disk[at..at + 4].copy_from_slice(magic);
            let directory = release(&[("disk", &disk)]);
            let parameters = root_parameters(&directory.path().join("disk")).unwrap();
            assert_eq!(parameters, ["root=/dev/vda", kind, "ro"]);
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let directory = release(&[]);
        let error = ForeignImage::from_release(directory.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains(KATA_DISK), "{error}");
        let kernel = directory.path().join("vmlinux.container");
        let image = ForeignImage::new(&kernel);
        let target = directory.path().join("image");
        assert!(matches!(
            image.import(&target, &|_| {}),
            Err(Error::ForeignImage(_))
        ));
        let both = image.clone().initramfs(&kernel).disk(&kernel);
        assert!(matches!(
            both.import(&target, &|_| {}),
            Err(Error::ForeignImage(_))
        ));
        let error = image.disk(&kernel).import(&target, &|_| {}).unwrap_err();
        assert!(matches!(error, Error::UnknownDisk { .. }), "{error}");
        assert!(!target.exists());
    }
}
