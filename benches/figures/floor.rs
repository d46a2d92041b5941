//! The raw floor of a boot: the same QEMU, machine, processor, kernel, command line
//! and memory as a sandbox's, with an initramfs whose init prints one line, and
//! without the devices. What "the same" is, is read off a running sandbox's QEMU.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use kata_image::cpio::{Archive, Entry};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// What the init prints; see `guest-probe`.
const LINE: &str = "floor";
/// Options that a floor shares with a sandbox, each with one argument.
const SHARED: [&str; 8] = [
    "-M", "-machine", "-accel", "-cpu", "-smp", "-global", "-append", "-kernel",
];

/// What a floor has of a sandbox's QEMU.
pub(crate) struct Model {
    program: PathBuf,
    arguments: Vec<String>,
}

impl Model {
    /// That of the QEMU that is this process's child now.
    pub(crate) fn of_child() -> Result<Self, Box<dyn std::error::Error>> {
        let (program, words) = child()?.ok_or("no QEMU runs below this process")?;
        let mut arguments = Vec::new();
        for pair in words.windows(2) {
            if SHARED.contains(&pair[0].as_str()) {
                // The backend of shared memory is there for the devices' sake.
                let kept: Vec<&str> = pair[1]
                    .split(',')
                    .filter(|word| !word.starts_with("memory-backend="))
                    .collect();
                let value = if pair[0] == "-append" {
                    pair[1].clone()
                } else {
                    kept.join(",")
                };
                arguments.extend([pair[0].clone(), value]);
            }
        }
        Ok(Self { program, arguments })
    }

    /// Whether its devices are on a PCI bus.
    pub(crate) fn has_pci(&self) -> bool {
        !self
            .arguments
            .iter()
            .any(|word| word.starts_with("microvm"))
    }

    /// Its QEMU with that initramfs, without devices but for a serial port,
    /// which is the process's standard output.
    pub(crate) fn command(&self, mib: u64, initramfs: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .args(["-m", &mib.to_string(), "-nodefaults", "-no-user-config"])
            .args(["-display", "none", "-no-reboot", "-serial", "stdio"])
            .arg("-initrd")
            .arg(initramfs)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

pub(crate) struct Floor {
    model: Model,
    initramfs: tempfile::NamedTempFile,
}

impl Floor {
    /// The floor of the QEMU that is this process's child now.
    pub(crate) fn of_child(probe: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let model = Model::of_child()?;
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
        Ok(Self { model, initramfs })
    }

    /// From starting QEMU until the line is on the serial port.
    pub(crate) async fn boot(&self, mib: u64) -> Result<Duration, Box<dyn std::error::Error>> {
        let began = Instant::now();
        let mut child = self.model.command(mib, self.initramfs.path()).spawn()?;
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

/// Program and arguments of the QEMU whose parent is this process.
fn child() -> std::io::Result<Option<(PathBuf, Vec<String>)>> {
    let parent = format!("PPid:\t{}", std::process::id());
    for entry in std::fs::read_dir("/proc")? {
        let process = entry?.path();
        // A process may end while it is looked at.
        let Ok(status) = std::fs::read_to_string(process.join("status")) else {
            continue;
        };
        let Ok(line) = std::fs::read_to_string(process.join("cmdline")) else {
            continue;
        };
        if status.lines().any(|line| line == parent) && line.contains("-append") {
            let words = line
                .split_terminator('\0')
                .skip(1)
                .map(str::to_owned)
                .collect();
            return Ok(Some((std::fs::read_link(process.join("exe"))?, words)));
        }
    }
    Ok(None)
}
