//! Makes guest images: the kernel and the initramfs that a sandbox's virtual
//! machine boots, with a manifest that says what they are.
//!
//! ```text
//!  source::{installed, package, file, minimal}      where the kernel is from
//!        |
//!        v
//!  kernel   uncompressed, in the form that a machine monitor enters directly
//!  modules  the few that are wanted, with what they need, in load order
//!        |
//!        v
//!  initramfs   agent as /init + modules  ->  cpio, same inputs same bytes
//!        |
//!        v
//!  image    kernel + initramfs + manifest.json, published in one rename
//! ```
//!
//! Nothing here needs root. The network is used by `apt-get download` only, and
//! only where the kernel is not on this machine yet.
//!
//! ```no_run
//! use kata_image::{Architecture, Cache, ImageBuilder, KernelSource};
//!
//! # fn main() -> Result<(), kata_image::Error> {
//! let cache = Cache::open("/var/cache/kata-sandbox")?;
//! let image = ImageBuilder::new("target/kata-agent")
//!     .architecture(Architecture::X86_64)
//!     .kernel(KernelSource::Package { name: None })
//!     .build("guest-image", &cache, &|progress| eprintln!("{progress}"))?;
//! println!("{} boots Linux {}", image.name, image.kernel_release);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod agent;
mod apt;
mod architecture;
mod cache;
mod compression;
pub mod cpio;
mod elf;
mod error;
mod image;
mod import;
mod initramfs;
mod kernel;
mod minimal;
mod modules;
mod progress;
mod publish;
mod source;
mod tool;

pub use architecture::{Architecture, UnknownArchitecture};
pub use cache::Cache;
pub use compression::{Compression, CompressionError};
pub use cpio::{Archive, Entry};
pub use elf::ElfError;
pub use error::Error;
pub use image::{ImageBuilder, verify};
pub use import::ForeignImage;
pub use initramfs::DEFAULT_MODULES;
pub use kata_protocol::manifest::{ImageFile, Manifest, ManifestError};
pub use kernel::{BootKernel, KernelError};
pub use minimal::{Built, MinimalKernel};
pub use modules::{Module, ModuleTree};
pub use progress::{Progress, Report};
pub use source::KernelSource;
