//! An initramfs with busybox, the vsock peer and a shell on the console. The
//! modules of the kernel that `KATA_TEST_MODULES` names (paths, separated by colons)
//! are loaded in their order.

use std::path::{Path, PathBuf};
use std::process::Command;

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /mnt /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
export PATH=/bin
for module in /modules/*; do [ -f "$module" ] && insmod "$module"; done
stty -echo -onlcr < /dev/ttyS0
if [ -e /dev/vsock ]; then
  vsock_peer > /tmp/peer &
  until grep -q READY /tmp/peer; do sleep 0.05; done
fi
exec < /dev/ttyS0 > /dev/ttyS0 2>&1
echo "GUEST READY"
while IFS= read -r line; do
  eval "$line"
  echo "<<status $?>>"
done
"#;

pub(crate) fn build(dir: &Path) -> PathBuf {
    let peer = compile(dir);
    let mut archive = Archive::default();
    archive.add("bin", 0o040_755, &[]);
    archive.add("dev", 0o040_755, &[]);
    archive.add("init", 0o100_755, INIT.as_bytes());
    archive.add(
        "bin/busybox",
        0o100_755,
        &std::fs::read("/bin/busybox").unwrap(),
    );
    archive.add("bin/vsock_peer", 0o100_755, &std::fs::read(peer).unwrap());
    archive.add_console();
    archive.add("modules", 0o040_755, &[]);
    let modules = std::env::var("KATA_TEST_MODULES").unwrap_or_default();
    for (number, module) in modules.split_terminator(':').enumerate() {
        let name = format!("modules/{number:02}");
        archive.add(&name, 0o100_644, &std::fs::read(module).unwrap());
    }
    let path = dir.join("initramfs");
    std::fs::write(&path, archive.finish()).unwrap();
    path
}

fn compile(dir: &Path) -> PathBuf {
    let program = dir.join("vsock_peer");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/vsock_peer.rs");
    let status = Command::new("rustc")
        .args([
            "--edition",
            "2024",
            "-O",
            "-C",
            "target-feature=+crt-static",
            "-C",
            "strip=symbols",
        ])
        .arg("-o")
        .arg(&program)
        .arg(source)
        .status()
        .unwrap();
    assert!(status.success());
    program
}

/// A cpio archive, format `newc`.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entry(name, mode, content, (0, 0));
    }

    fn add_console(&mut self) {
        self.entry("dev/console", 0o020_600, &[], (5, 1));
        self.entry("dev/ttyS0", 0o020_600, &[], (4, 64));
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8], device: (u32, u32)) {
        self.inode += 1;
        let size = u32::try_from(content.len()).unwrap();
        let name_size = u32::try_from(name.len() + 1).unwrap();
        let fields = [
            self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}
