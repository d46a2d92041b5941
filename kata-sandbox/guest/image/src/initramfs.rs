//! What is in the initramfs.
//!
//! ```text
//! /init                       the agent, pid 1
//! /etc/kata/modules           paths of the modules, one a line, in load order
//! /lib/modules/RELEASE/*.ko   the modules
//! /dev/console                so that the first words are heard
//! /dev /proc /sys /run /tmp   to mount on
//! ```

use crate::cpio::{Archive, Entry};
use crate::modules::Module;

/// The modules that a guest needs: both transports, and the devices and file
/// systems that sandboxes are given.
pub const DEFAULT_MODULES: &[&str] = &[
    "virtio_mmio",
    "virtio_pci",
    "vmw_vsock_virtio_transport",
    "virtiofs",
    "overlay",
    "virtio_net",
    "virtio_blk",
    "virtio_rng",
];

/// Where the list of modules is.
const MODULE_LIST: &str = "etc/kata/modules";

/// Puts an initramfs together.
pub(crate) fn assemble(agent: Vec<u8>, release: &str, modules: Vec<Module>) -> Archive {
    let mut archive = Archive::new();
    for (directory, mode) in [
        ("dev", 0o755),
        ("proc", 0o555),
        ("sys", 0o555),
        ("run", 0o755),
        ("tmp", 0o1777),
    ] {
        archive.insert(directory, Entry::Directory { mode });
    }
    archive.insert(
        "dev/console",
        Entry::Character {
            mode: 0o600,
            major: 5,
            minor: 1,
        },
    );
    archive.insert(
        "init",
        Entry::File {
            mode: 0o755,
            bytes: agent,
        },
    );
    let mut list = String::new();
    for Module { name, bytes } in modules {
        let path = format!("/lib/modules/{release}/{name}.ko");
        archive.insert(&path, Entry::File { mode: 0o644, bytes });
        list.push_str(&path);
        list.push('\n');
    }
    archive.insert(
        MODULE_LIST,
        Entry::File {
            mode: 0o644,
            bytes: list.into_bytes(),
        },
    );
    archive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_listed_in_the_order_in_which_they_are_loaded() {
        let modules = ["virtio_ring", "virtio"].map(|name| Module {
            name: name.into(),
            bytes: name.as_bytes().to_vec(),
        });
        let archive = assemble(b"agent".to_vec(), "6.1", modules.to_vec());
        let entries: std::collections::BTreeMap<_, _> = archive.entries().collect();
        let list = b"/lib/modules/6.1/virtio_ring.ko\n/lib/modules/6.1/virtio.ko\n".to_vec();
        assert_eq!(
            entries["etc/kata/modules"],
            &Entry::File {
                mode: 0o644,
                bytes: list
            }
        );
        assert_eq!(
            entries["init"],
            &Entry::File {
                mode: 0o755,
                bytes: b"agent".to_vec()
            }
        );
        for directory in ["dev", "proc", "sys", "run", "tmp", "etc"] {
            assert!(
                matches!(entries[directory], Entry::Directory { .. }),
                "{directory}"
            );
        }
    }
}
