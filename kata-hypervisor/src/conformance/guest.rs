//! The guest that the cases talk to.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::initramfs;
use crate::config::{KernelCommandLine, MemorySize};

/// A guest for the cases. Its first process, once up, connects to vsock port
/// [`READY`](Self::READY) of the host, echoes on port [`ECHO`](Self::ECHO),
/// reads a word on port [`ORDERS`](Self::ORDERS): `panic` makes its kernel
/// panic, `end` makes it end its machine, `off` switches it off; and reads `<tag> <path>` on port
/// [`FILES`](Self::FILES), to be answered by that file of that virtio-fs. On
/// port [`DISKS`](Self::DISKS) it reads `<serial> [<word>]`, writes the word to
/// the disk of that serial number if there is one, and answers by its first 512
/// bytes, or by `error: …`. On port [`SIZE`](Self::SIZE) it brings all
/// processors online and says `<processors> <KiB of memory>`. On port
/// [`CLOCK`](Self::CLOCK) it says how many milliseconds have passed in it, and
/// on port [`NICS`](Self::NICS) the hardware address of each network device. On port
/// [`CONSOLE`](Self::CONSOLE) it reads a word, writes it to `hvc0`, and answers by
/// a line that it reads there.
///
/// [`Guest::from_environment`] builds one from source; a backend that needs
/// another guest makes its own to this contract.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The kernel, with vsock and the backend's virtio transport built in.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// What the kernel is told.
    pub command_line: KernelCommandLine,
    /// How much memory it needs.
    pub memory: MemorySize,
}

/// The source of the guest's only program.
const SOURCE: &str = include_str!("guest/init.rs");

impl Guest {
    /// The host's port to which the guest connects once it is up.
    pub const READY: u32 = 1023;
    /// The guest's port that echoes.
    pub const ECHO: u32 = 7;
    /// The guest's port that takes orders.
    pub const ORDERS: u32 = 9;
    /// The guest's port that reads files.
    pub const FILES: u32 = 11;
    /// The guest's port that reads and writes disks.
    pub const DISKS: u32 = 13;
    /// The guest's port that tells how many milliseconds have passed there.
    pub const CLOCK: u32 = 17;
    /// The vsock port on which it tells its network devices.
    pub const NICS: u32 = 19;
    /// The guest's port that writes to its console, and reads there.
    pub const CONSOLE: u32 = 23;
    /// The guest's port that says how large the machine is.
    pub const SIZE: u32 = 15;

    /// The variable that names a kernel for [`from_environment`](Self::from_environment).
    pub const KERNEL: &str = "KATA_TEST_KERNEL";

    /// The variable that names an initramfs for it, in place of one built on
    /// the spot.
    pub const INITRAMFS: &str = "KATA_TEST_INITRAMFS";

    /// A guest with the kernel that the environment variable
    /// `KATA_TEST_KERNEL` names, and an initramfs built on the spot, unless
    /// `KATA_TEST_INITRAMFS` names one that was built before.
    ///
    /// # Errors
    /// The reason why there is none, for skipping aloud.
    pub fn from_environment() -> Result<Self, String> {
        let kernel = std::env::var_os(Self::KERNEL)
            .ok_or_else(|| format!("{} names no kernel to boot", Self::KERNEL))?;
        let initramfs = match std::env::var_os(Self::INITRAMFS) {
            Some(path) => path.into(),
            None => built_initramfs()?,
        };
        Ok(Self {
            kernel: kernel.into(),
            initramfs,
            command_line: ["quiet"].into_iter().collect(),
            memory: MemorySize::mib(128),
        })
    }
}

/// The initramfs, built once per process.
fn built_initramfs() -> Result<PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(|| build(&cache_directory())).clone()
}

/// Beside the test's own executable: under the build's target directory.
fn cache_directory() -> PathBuf {
    let executable = std::env::current_exe().unwrap_or_default();
    executable
        .parent()
        .map_or_else(std::env::temp_dir, Path::to_owned)
}

fn build(directory: &Path) -> Result<PathBuf, String> {
    // Tests of several processes may build at once: each its own, then renamed.
    let own = directory.join(format!("conformance-guest-{}", std::process::id()));
    std::fs::create_dir_all(&own).map_err(|error| format!("{}: {error}", own.display()))?;
    let result = build_in(&own, &directory.join("conformance-guest.cpio"));
    let _ = std::fs::remove_dir_all(&own);
    result
}

fn build_in(own: &Path, target: &Path) -> Result<PathBuf, String> {
    let (source, init, image) = (own.join("init.rs"), own.join("init"), own.join("cpio"));
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    std::fs::write(&source, SOURCE).map_err(|error| failed(&source, error))?;
    compile(&source, &init)?;
    let program = std::fs::read(&init).map_err(|error| failed(&init, error))?;
    std::fs::write(&image, initramfs::pack(&program)).map_err(|error| failed(&image, error))?;
    std::fs::rename(&image, target).map_err(|error| failed(target, error))?;
    Ok(target.to_owned())
}

fn compile(source: &Path, init: &Path) -> Result<(), String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let output = Command::new(&rustc)
        .args([
            "--edition=2024",
            "-O",
            "-C",
            "target-feature=+crt-static",
            "-C",
            "panic=abort",
        ])
        .args(["-C", "strip=symbols", "-o"])
        .args([init, source])
        .output()
        .map_err(|error| format!("cannot run {}: {error}", rustc.display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "the guest does not compile: {}",
        String::from_utf8_lossy(&output.stderr)
    ))
}
