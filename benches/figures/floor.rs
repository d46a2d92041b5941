//! The raw floor of a boot: the same QEMU, machine, kernel and memory, with an
//! initramfs whose init prints one line.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use kata_image::cpio::{Archive, Entry};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// What the init prints; see `guest-probe`.
const LINE: &str = "floor";

pub(crate) struct Floor {
    kernel: PathBuf,
    initramfs: tempfile::NamedTempFile,
}

impl Floor {
    pub(crate) fn new(image: &Path, probe: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let mut archive = Archive::new();
        archive.insert(
            "init",
            Entry::File {
                mode: 0o755,
                bytes: std::fs::read(probe)?,
            },
        );
        archive.insert(
            "dev/console",
            Entry::Character {
                mode: 0o600,
                major: 5,
                minor: 1,
            },
        );
        let initramfs = tempfile::NamedTempFile::new()?;
        std::fs::write(
            &initramfs,
            archive.to_bytes().ok_or("the archive is too large")?,
        )?;
        Ok(Self {
            kernel: image.join("vmlinux"),
            initramfs,
        })
    }

    /// From starting QEMU until the line is on the serial port.
    pub(crate) async fn boot(&self, mib: u64) -> Result<Duration, Box<dyn std::error::Error>> {
        let began = Instant::now();
        let mut child = Command::new("qemu-system-x86_64")
            .args([
                "-M",
                "microvm,acpi=off,pit=on,pic=on,rtc=on",
                "-cpu",
                "max",
                "-smp",
                "1",
            ])
            .args([
                "-m",
                &mib.to_string(),
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
            ])
            .args(["-no-reboot", "-serial", "stdio", "-accel", "tcg"])
            .args([
                "-append",
                "console=ttyS0 quiet panic=-1 reboot=t mitigations=off nokaslr",
            ])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(self.initramfs.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no pipe")?).lines();
        while let Some(line) = lines.next_line().await? {
            if line.trim_end() == LINE {
                let took = began.elapsed();
                child.kill().await?;
                return Ok(took);
            }
        }
        Err("the floor's guest ended without its line".into())
    }
}
