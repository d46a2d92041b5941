//! Why an image could not be made.

use std::io;
use std::path::PathBuf;

use kata_protocol::manifest::ManifestError;

use crate::architecture::{Architecture, UnknownArchitecture};
use crate::compression::CompressionError;
use crate::elf::ElfError;
use crate::kernel::KernelError;

/// Why an image could not be made, and what helps.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or directory could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The image's own description is wrong, or its files are not those described.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// This machine's architecture is none that images are made for.
    #[error(transparent)]
    Architecture(#[from] UnknownArchitecture),
    /// A file is no kernel that can be booted.
    #[error("cannot boot the kernel {}", path.display())]
    Kernel {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KernelError,
    },
    /// No kernel is installed.
    #[error(
        "no kernel is installed in {}; name another source: --kernel-package, --kernel-minimal or --kernel FILE",
        directory.display()
    )]
    NoInstalledKernel {
        /// Where kernels are looked for.
        directory: PathBuf,
    },
    /// The package manager knows no kernel package.
    #[error(
        "apt knows none of the packages {}; run 'apt-get update' as root, or name a kernel with --kernel FILE",
        names.join(", ")
    )]
    NoPackage {
        /// The packages that were asked for.
        names: Vec<String>,
    },
    /// A package does not hold what it should.
    #[error("package {package} holds no {what}")]
    PackageWithout {
        /// The package.
        package: String,
        /// What is missing.
        what: String,
    },
    /// A module is neither there nor built in.
    #[error(
        "kernel {release} has no module {module}, neither below {} nor built in; leave it out with --modules-wanted or use another kernel",
        directory.display()
    )]
    NoModule {
        /// The module.
        module: String,
        /// The kernel's release.
        release: String,
        /// Where modules were looked for.
        directory: PathBuf,
    },
    /// Modules need each other in a circle.
    #[error("module {module} needs itself, through {}", chain.join(" -> "))]
    ModuleCircle {
        /// The module.
        module: String,
        /// What led to it.
        chain: Vec<String>,
    },
    /// A module is compressed with something unknown, or damaged.
    #[error("cannot decompress {}", path.display())]
    CompressedModule {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CompressionError,
    },
    /// A module is no ELF file.
    #[error("{} is not a kernel module", path.display())]
    Module {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ElfError,
    },
    /// The agent is no ELF program.
    #[error("the agent {} is not a program", path.display())]
    Agent {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ElfError,
    },
    /// The agent needs libraries, and the guest has none.
    #[error(
        "the agent {} is linked dynamically; build it with -C target-feature=+crt-static",
        path.display()
    )]
    AgentNotStatic {
        /// The file.
        path: PathBuf,
    },
    /// The agent is built for another architecture.
    #[error("the agent {} is not built for {wanted}", path.display())]
    AgentArchitecture {
        /// The file.
        path: PathBuf,
        /// What the image is for.
        wanted: Architecture,
    },
    /// The initramfs would be larger than the format allows.
    #[error("the initramfs has a file of 4 GiB or more")]
    InitramfsTooLarge,
    /// A program that is needed could not be started.
    #[error("cannot run {program}; install it: apt-get install {package}")]
    ToolMissing {
        /// The program.
        program: String,
        /// The package that has it.
        package: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A program failed.
    #[error("{command} failed ({status}):\n{output}")]
    ToolFailed {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it printed.
        output: String,
    },
    /// The kernel's configuration did not keep what was asked for.
    #[error(
        "these options of the minimal kernel were lost, because something that they need is off or they do not exist in this version:\n{}",
        options.join("\n")
    )]
    OptionsLost {
        /// The lines that were asked for.
        options: Vec<String>,
    },
    /// A foreign image lacks a part, or has one too many.
    #[error("a foreign image needs a kernel and either an initramfs or a disk image; {0}")]
    ForeignImage(String),
    /// A disk image has nothing that a kernel could mount as its root.
    #[error(
        "{} has no root file system that is known (ext4, xfs or erofs, on the disk or its first partition)",
        path.display()
    )]
    UnknownDisk {
        /// The file.
        path: PathBuf,
    },
}

impl Error {
    /// For `map_err` on reading `path`.
    pub(crate) fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Read { path, source }
    }

    /// For `map_err` on writing `path`.
    pub(crate) fn write(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Write { path, source }
    }
}
