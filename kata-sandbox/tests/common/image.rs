//! A guest image that verifies, and boots nothing.

use std::path::Path;

use kata_protocol::manifest::{FILE, ImageFile};

pub(crate) fn make(directory: &Path) {
    std::fs::create_dir_all(directory).unwrap();
    std::fs::write(directory.join("vmlinux"), b"kernel").unwrap();
    std::fs::write(directory.join("initramfs"), b"agent").unwrap();
    let describe = |name| {
        let ImageFile { file, size, sha256 } = ImageFile::describe(&directory.join(name)).unwrap();
        format!(r#"{{"file": "{file}", "size": {size}, "sha256": "{sha256}"}}"#)
    };
    let json = format!(
        r#"{{"version": 1, "name": "test", "architecture": "{}", "kernel_release": "6.1",
            "kernel": {}, "initramfs": {}, "agent": "0.1.0"}}"#,
        std::env::consts::ARCH,
        describe("vmlinux"),
        describe("initramfs")
    );
    std::fs::write(directory.join(FILE), json).unwrap();
}
