//! What a guest image says about itself: `manifest.json` beside its files.
//!
//! The image maker writes it; the runtime reads it, verifies the checksums, and
//! names the image in its errors.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The name of the manifest in the image's directory.
pub const FILE: &str = "manifest.json";
/// The version of the format that this code writes and reads.
pub const VERSION: u32 = 1;
/// The largest manifest that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// A guest image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format; see [`VERSION`].
    pub version: u32,
    /// What people call the image, such as `debian-6.1.0-35-cloud-amd64`.
    pub name: String,
    /// The architecture as Rust spells it: `x86_64`, `aarch64`.
    pub architecture: String,
    /// Release of the kernel, as `uname -r` prints it in the guest.
    pub kernel_release: String,
    /// The kernel, in the form that the architecture enters directly where it
    /// has one (an ELF `vmlinux` with a PVH entry, a flat arm64 `Image`).
    pub kernel: ImageFile,
    /// The initramfs with the agent as pid 1; `None` where a root disk has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<ImageFile>,
    /// A root disk, read-only, in place of the initramfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<ImageFile>,
    /// Whether the kernel finds virtio-mmio devices that its command line names
    /// (`virtio_mmio.device=`); one that does not needs ACPI or PCI to find any.
    #[serde(default)]
    pub virtio_mmio_command_line: bool,
    /// Words for the kernel command line that this image needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_parameters: Vec<String>,
    /// Version of the agent, if it is this project's; a foreign agent has none
    /// and is dialled instead of awaited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Modules in the initramfs, in the order in which they are loaded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<String>,
    /// What the image was made from, for people: package, version, checksum.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub provenance: BTreeMap<String, String>,
}

/// A file of the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFile {
    /// File name, relative to the manifest; a single component.
    pub file: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The manifest is not of this format.
    #[error("{} is not a guest image manifest", path.display())]
    Malformed {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The manifest is of a version that this code does not read.
    #[error("{} has format version {found}, and this runtime reads version {VERSION}; make the image again with kata-image", path.display())]
    Version {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// A file name leads out of the image's directory.
    #[error("{} names the file {file:?}, which is not beside it", path.display())]
    Escapes {
        /// The manifest.
        path: PathBuf,
        /// The name.
        file: String,
    },
    /// A file is not the one that the manifest describes.
    #[error("{} of guest image {image} is damaged: {what} is {found}, expected {expected}; make the image again with kata-image", path.display())]
    Damaged {
        /// The image's name.
        image: String,
        /// The file.
        path: PathBuf,
        /// Size or checksum.
        what: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
}

impl Manifest {
    /// Reads the manifest of the image in `directory`.
    ///
    /// # Errors
    /// When it is missing, malformed, of another version, or names files
    /// outside the directory.
    pub fn load(directory: &Path) -> Result<Self, ManifestError> {
        let path = directory.join(FILE);
        let read = |source| ManifestError::Read {
            path: path.clone(),
            source,
        };
        let mut bytes = Vec::new();
        File::open(&path)
            .map_err(read)?
            .take(LIMIT)
            .read_to_end(&mut bytes)
            .map_err(read)?;
        Self::parse(&bytes, &path)
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let malformed = |source| ManifestError::Malformed {
            path: path.to_owned(),
            source,
        };
        let found = serde_json::from_slice::<Versioned>(bytes)
            .map_err(malformed)?
            .version;
        if found != VERSION {
            return Err(ManifestError::Version {
                path: path.to_owned(),
                found,
            });
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(malformed)?;
        for ImageFile { file, .. } in manifest.files() {
            let mut components = Path::new(file).components();
            let first = components.next();
            if !matches!(first, Some(std::path::Component::Normal(_)))
                || components.next().is_some()
            {
                let (path, file) = (path.to_owned(), file.clone());
                return Err(ManifestError::Escapes { path, file });
            }
        }
        Ok(manifest)
    }

    /// The files that the image consists of.
    pub fn files(&self) -> impl Iterator<Item = &ImageFile> {
        std::iter::once(&self.kernel)
            .chain(&self.initramfs)
            .chain(&self.disk)
    }

    /// Verifies size and checksum of every file in `directory`. Reads them
    /// whole: some tens of milliseconds, so remember the outcome.
    ///
    /// # Errors
    /// [`ManifestError::Read`] or [`ManifestError::Damaged`], naming the file.
    pub fn verify(&self, directory: &Path) -> Result<(), ManifestError> {
        self.files().try_for_each(|file| {
            let path = directory.join(&file.file);
            let found = ImageFile::describe(&path).map_err(|source| ManifestError::Read {
                path: path.clone(),
                source,
            })?;
            let damaged = |what, found, expected| ManifestError::Damaged {
                image: self.name.clone(),
                path: path.clone(),
                what,
                found,
                expected,
            };
            if found.size != file.size {
                return Err(damaged(
                    "size",
                    found.size.to_string(),
                    file.size.to_string(),
                ));
            }
            if found.sha256 != file.sha256 {
                return Err(damaged("SHA-256", found.sha256, file.sha256.clone()));
            }
            Ok(())
        })
    }
}

impl ImageFile {
    /// Describes the file at `path`, as it is now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn describe(path: &Path) -> std::io::Result<Self> {
        let mut file = File::open(path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 * 1024];
        let mut size = 0;
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            size += count as u64;
        }
        let sha256 = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Ok(Self {
            file: name,
            size,
            sha256,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(directory: &Path) -> Manifest {
        std::fs::write(directory.join("vmlinux"), b"kernel").unwrap();
        let manifest = Manifest {
            version: VERSION,
            name: "test".into(),
            architecture: "x86_64".into(),
            kernel_release: "6.1".into(),
            kernel: ImageFile::describe(&directory.join("vmlinux")).unwrap(),
            initramfs: None,
            disk: None,
            virtio_mmio_command_line: true,
            kernel_parameters: vec![],
            agent: None,
            modules: vec![],
            provenance: BTreeMap::new(),
        };
        let json = serde_json::to_vec(&manifest).unwrap();
        std::fs::write(directory.join(FILE), json).unwrap();
        manifest
    }

    #[test]
    fn an_image_loads_as_it_was_written_and_verifies() {
        let directory = tempfile::tempdir().unwrap();
        let written = image(directory.path());
        let read = Manifest::load(directory.path()).unwrap();
        assert_eq!(read, written);
        read.verify(directory.path()).unwrap();
    }

    #[test]
    fn a_changed_byte_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let manifest = image(directory.path());
        std::fs::write(directory.path().join("vmlinux"), b"kernal").unwrap();
        let error = manifest.verify(directory.path()).unwrap_err().to_string();
        assert!(
            error.contains("vmlinux") && error.contains("SHA-256"),
            "{error}"
        );
    }

    #[test]
    fn a_file_outside_the_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut manifest = image(directory.path());
        for name in ["../vmlinux", "/vmlinux", "a/b", "", "."] {
            manifest.kernel.file = name.into();
            let json = serde_json::to_vec(&manifest).unwrap();
            let error = Manifest::parse(&json, Path::new("m")).unwrap_err();
            assert!(
                matches!(error, ManifestError::Escapes { .. }),
                "{name}: {error}"
            );
        }
    }

    #[test]
    fn another_version_is_named_even_when_its_fields_differ() {
        let error = Manifest::parse(br#"{"version": 7, "new": 1}"#, Path::new("m")).unwrap_err();
        assert!(
            matches!(error, ManifestError::Version { found: 7, .. }),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            drop(Manifest::parse(&bytes, Path::new("m")));
        }
    }
}
