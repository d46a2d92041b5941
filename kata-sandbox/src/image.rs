//! The guest image: what a sandbox boots.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kata_protocol::manifest::{FILE, Manifest, ManifestError};

/// Where the guest comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum GuestImage {
    /// A directory with a manifest, verified before use.
    Directory(PathBuf),
    /// A kernel and an initramfs, taken as they are.
    Files { kernel: PathBuf, initramfs: PathBuf },
}

/// What a machine boots: [`GuestImage`] resolved to files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Boot {
    pub(crate) name: String,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: Option<PathBuf>,
    pub(crate) disk: Option<PathBuf>,
    pub(crate) kernel_parameters: Vec<String>,
    /// Whether the agent announces itself; a foreign one is dialled.
    pub(crate) announces: bool,
    /// What there is to verify.
    pub(crate) manifest: Option<(PathBuf, Arc<Manifest>)>,
}

impl GuestImage {
    /// Reads what there is to boot; verifies no file.
    pub(crate) fn resolve(&self) -> Result<Boot, ManifestError> {
        match self {
            Self::Directory(directory) => {
                let manifest = Manifest::load(directory)?;
                Ok(Boot {
                    name: manifest.name.clone(),
                    kernel: directory.join(&manifest.kernel.file),
                    initramfs: manifest
                        .initramfs
                        .as_ref()
                        .map(|file| directory.join(&file.file)),
                    disk: manifest
                        .disk
                        .as_ref()
                        .map(|file| directory.join(&file.file)),
                    kernel_parameters: manifest.kernel_parameters.clone(),
                    announces: manifest.agent.is_some(),
                    manifest: Some((directory.clone(), Arc::new(manifest))),
                })
            }
            Self::Files { kernel, initramfs } => Ok(Boot {
                name: kernel.display().to_string(),
                kernel: kernel.clone(),
                initramfs: Some(initramfs.clone()),
                disk: None,
                kernel_parameters: Vec::new(),
                announces: false,
                manifest: None,
            }),
        }
    }
}

/// By which a file that was not touched is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

/// By which the files of an image that were not touched are known.
pub(crate) type Fingerprints = Vec<Fingerprint>;

/// Images that were verified, and have not been touched since.
#[derive(Debug, Default)]
pub(crate) struct VerifiedImages {
    /// Held while an image is read: who starts beside it waits and profits.
    verifying: tokio::sync::Mutex<()>,
    known: Mutex<HashMap<PathBuf, Fingerprints>>,
}

impl VerifiedImages {
    /// Verifies the image, unless it was and is untouched.
    pub(crate) async fn verify(&self, boot: &Boot) -> Result<(), VerifyError> {
        let Some((directory, manifest)) = boot.manifest.clone() else {
            return Ok(());
        };
        let _verifying = self.verifying.lock().await;
        let before = self.lock().get(&directory).cloned();
        let path = directory.clone();
        let found = tokio::task::spawn_blocking(move || {
            let now = fingerprints(&path, &manifest)?;
            if before.as_ref() != Some(&now) {
                manifest.verify(&path)?;
            }
            Ok::<_, ManifestError>(now)
        })
        .await??;
        self.lock().insert(directory, found);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Fingerprints>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By which the image is known, if it was verified.
    pub(crate) fn known(&self, boot: &Boot) -> Option<Fingerprints> {
        let (directory, _) = boot.manifest.as_ref()?;
        self.lock().get(directory).cloned()
    }

    /// Takes another process's word for having verified the image. If it was
    /// touched since, it is read all the same.
    pub(crate) fn learn(&self, boot: &Boot, verified: Fingerprints) {
        if let Some((directory, _)) = &boot.manifest {
            self.lock().insert(directory.clone(), verified);
        }
    }
}

/// Why an image was not verified.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Task(#[from] tokio::task::JoinError),
}

fn fingerprints(directory: &Path, manifest: &Manifest) -> Result<Vec<Fingerprint>, ManifestError> {
    let names = manifest.files().map(|file| file.file.as_str());
    std::iter::once(FILE)
        .chain(names)
        .map(|name| {
            let path = directory.join(name);
            let found = std::fs::metadata(&path);
            found
                .map(|found| Fingerprint::of(&found))
                .map_err(|source| ManifestError::Read { path, source })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use kata_protocol::manifest::{ImageFile, VERSION};

    use super::*;

    fn image() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("vmlinux"), b"kernel").unwrap();
        std::fs::write(directory.path().join("initramfs"), b"agent").unwrap();
        let describe = |name| ImageFile::describe(&directory.path().join(name)).unwrap();
        let manifest = Manifest {
            version: VERSION,
            name: "test".into(),
            architecture: "x86_64".into(),
            kernel_release: "6.1".into(),
            kernel: describe("vmlinux"),
            initramfs: Some(describe("initramfs")),
            virtio_mmio_command_line: true,
            disk: None,
            kernel_parameters: vec!["quiet".into()],
            agent: Some("0.1.0".into()),
            modules: vec![],
            provenance: std::collections::BTreeMap::new(),
        };
        let json = serde_json::to_vec(&manifest).unwrap();
        std::fs::write(directory.path().join(FILE), json).unwrap();
        directory
    }

    fn resolve(directory: &tempfile::TempDir) -> Boot {
        GuestImage::Directory(directory.path().to_owned())
            .resolve()
            .unwrap()
    }

    #[tokio::test]
    async fn an_image_is_verified_once_and_again_when_it_changes() {
        let directory = image();
        let boot = resolve(&directory);
        assert!(boot.announces);
        let images = VerifiedImages::default();
        images.verify(&boot).await.unwrap();
        images.verify(&boot).await.unwrap();
        std::fs::write(directory.path().join("vmlinux"), b"kernel!").unwrap();
        let error = images.verify(&boot).await.unwrap_err();
        assert!(
            error.to_string().contains("guest image test is damaged"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_file_that_is_gone_is_named() {
        let directory = image();
        let boot = resolve(&directory);
        std::fs::remove_file(directory.path().join("initramfs")).unwrap();
        let error = VerifiedImages::default().verify(&boot).await.unwrap_err();
        assert!(error.to_string().contains("initramfs"), "{error}");
    }

    #[tokio::test]
    async fn files_given_directly_are_taken_as_they_are() {
        let files = GuestImage::Files {
            kernel: "/k".into(),
            initramfs: "/i".into(),
        };
        let boot = files.resolve().unwrap();
        assert!(!boot.announces);
        VerifiedImages::default().verify(&boot).await.unwrap();
    }
}
