//! Other monitors, as processes: from their start until the payload's byte is on
//! their standard output.

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::payload::BYTE;

/// A program that runs the payload.
pub(super) struct Monitor {
    pub(super) name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
}

impl Monitor {
    pub(super) fn new(name: &'static str, program: PathBuf, arguments: Vec<String>) -> Self {
        Self {
            name,
            program,
            arguments,
        }
    }

    /// QEMU's `microvm` with nothing in it but a serial port.
    pub(super) fn qemu(payload: &Path, mebibytes: u64, accelerator: &str) -> Option<Self> {
        let program = find("KATA_BENCH_QEMU", "qemu-system-x86_64")?;
        let words = format!(
            "-M microvm,acpi=off -accel {accelerator} -m {mebibytes} -nodefaults \
             -no-user-config -display none -no-reboot -serial stdio -kernel"
        );
        let mut arguments: Vec<_> = words.split_whitespace().map(str::to_owned).collect();
        arguments.push(payload.display().to_string());
        Some(Self::new("QEMU microvm", program, arguments))
    }

    /// Firecracker, from `KATA_BENCH_FIRECRACKER` or the PATH.
    pub(super) fn firecracker(
        payload: &Path,
        mebibytes: u64,
        directory: &Path,
    ) -> io::Result<Option<Self>> {
        let Some(program) = find("KATA_BENCH_FIRECRACKER", "firecracker") else {
            return Ok(None);
        };
        let config = directory.join("firecracker.json");
        let payload = payload.display();
        let text = format!(
            r#"{{"boot-source": {{"kernel_image_path": "{payload}", "boot_args": "console=ttyS0"}},
                "drives": [], "machine-config": {{"vcpu_count": 1, "mem_size_mib": {mebibytes}}}}}"#
        );
        std::fs::write(&config, text)?;
        let arguments = ["--no-api", "--config-file"].map(str::to_owned);
        let arguments = arguments.into_iter().chain([config.display().to_string()]);
        Ok(Some(Self::new("Firecracker", program, arguments.collect())))
    }

    /// Cloud Hypervisor, from `KATA_BENCH_CLOUD_HYPERVISOR` or the PATH.
    pub(super) fn cloud_hypervisor(payload: &Path, mebibytes: u64) -> Option<Self> {
        let program = find("KATA_BENCH_CLOUD_HYPERVISOR", "cloud-hypervisor")?;
        let words =
            format!("--cpus boot=1 --memory size={mebibytes}M --serial tty --console off --kernel");
        let mut arguments: Vec<_> = words.split_whitespace().map(str::to_owned).collect();
        arguments.push(payload.display().to_string());
        Some(Self::new("Cloud Hypervisor", program, arguments))
    }

    /// From its start until the byte. What it says before is passed over.
    pub(super) fn first_byte(&self) -> io::Result<Duration> {
        let began = Instant::now();
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = child.stdout.take().expect("it is piped");
        let seen = BufReader::new(stdout).bytes().find_map(|byte| match byte {
            Ok(BYTE) => Some(Ok(began.elapsed())),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        });
        // Some reset by themselves, some begin anew.
        let _ = child.kill();
        child.wait()?;
        let silent = || io::Error::other(format!("{} ended without the byte", self.name));
        seen.unwrap_or_else(|| Err(silent()))
    }
}

/// The program that a variable names, or else the first of that name in the PATH.
fn find(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    let mut candidates = std::env::split_paths(&path).map(|directory| directory.join(name));
    let found = candidates.find(|path| path.is_file());
    if found.is_none() {
        println!("skipped: there is no {name} in PATH, and {variable} names none");
    }
    found
}
