//! Mounts of a container.

use std::path::PathBuf;

use oci_spec::runtime as oci;

use crate::MemorySize;

/// A mount of a container.
#[derive(Clone, Debug)]
pub struct Mount {
    source: PathBuf,
    destination: PathBuf,
    kind: &'static str,
    options: Vec<String>,
}

impl Mount {
    /// A directory or file of the host, at `guest` in the container. What one
    /// side writes, the other sees.
    #[must_use]
    pub fn share(host: impl Into<PathBuf>, guest: impl Into<PathBuf>) -> Self {
        Self {
            source: host.into(),
            destination: guest.into(),
            kind: "bind",
            options: vec!["rbind".into()],
        }
    }

    /// An empty file system in the guest's memory, at `guest` in the container,
    /// that holds at most `size`.
    #[must_use]
    pub fn tmpfs(guest: impl Into<PathBuf>, size: MemorySize) -> Self {
        let options = [
            "nosuid".to_owned(),
            "nodev".to_owned(),
            format!("size={}", size.as_bytes()),
        ];
        Self {
            source: "tmpfs".into(),
            destination: guest.into(),
            kind: "tmpfs",
            options: options.into(),
        }
    }

    /// Keeps the container from writing there; for a shared directory, the
    /// host refuses it too.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.options.push("ro".into());
        self
    }

    /// Adds a mount option as OCI specifications have them, such as `noexec`.
    #[must_use]
    pub fn option(mut self, option: impl Into<String>) -> Self {
        self.options.push(option.into());
        self
    }

    pub(super) fn into_oci(self) -> oci::Mount {
        let mut mount = oci::Mount::default();
        mount
            .set_destination(self.destination)
            .set_source(Some(self.source))
            .set_typ(Some(self.kind.to_owned()))
            .set_options(Some(self.options));
        mount
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_directory_is_a_bind_mount() {
        let mount = Mount::share("/srv", "/data")
            .read_only()
            .option("noexec")
            .into_oci();
        assert_eq!(mount.typ().as_deref(), Some("bind"));
        assert_eq!(
            mount.options().as_ref().unwrap(),
            &["rbind", "ro", "noexec"]
        );
    }

    #[test]
    fn a_tmpfs_has_a_size() {
        let mount = Mount::tmpfs("/tmp", MemorySize::mib(1)).into_oci();
        assert!(
            mount
                .options()
                .as_ref()
                .unwrap()
                .contains(&"size=1048576".to_owned())
        );
    }
}
