//! A kernel in the form that a machine monitor enters directly, got out of
//! whatever form a distribution ships it in.

mod arm64;
mod bzimage;

use crate::compression::{Compression, CompressionError};
use crate::elf::{Elf, ElfError};
use crate::{Architecture, architecture::UnknownArchitecture};

/// No kernel is larger than this when decompressed.
const LIMIT: usize = 512 << 20;
/// The note that gives a kernel's PVH entry point (`XEN_ELFNOTE_PHYS32_ENTRY`).
const PVH_NOTE: u32 = 18;
/// A kernel in a kernel in a kernel is enough.
const DEPTH: u32 = 3;

/// Why a file is no kernel that can be booted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// None of the known formats.
    #[error("not a kernel: neither ELF, bzImage, arm64 Image, EFI zboot nor a compressed one")]
    Unrecognised,
    /// The setup header of a bzImage does not fit the file.
    #[error("the bzImage's setup header is damaged or older than protocol 2.08")]
    BzImage,
    /// The header of an EFI zboot image does not fit the file.
    #[error("the EFI zboot image's header is damaged")]
    Zboot,
    /// The kernel's payload cannot be decompressed.
    #[error("the kernel inside cannot be decompressed")]
    Payload(#[from] CompressionError),
    /// The ELF file is damaged.
    #[error("the kernel's ELF file is damaged")]
    Elf(#[from] ElfError),
    /// The kernel is for an architecture that images are not made for.
    #[error("the kernel is for ELF machine {0}, which images are not made for")]
    Machine(u16),
    /// An x86_64 kernel that cannot be entered uncompressed.
    #[error("the kernel has no PVH entry; it needs CONFIG_PVH=y")]
    NoPvhEntry,
    /// An arm64 kernel as an ELF file.
    #[error("arm64 kernels are entered as a flat Image, and this is an ELF file")]
    Arm64Elf,
    /// The kernel does not say its version.
    #[error("the kernel has no version banner")]
    NoRelease,
    /// The kernel is for another architecture than the image.
    #[error("the kernel is for {found}, and the image for {wanted}")]
    WrongArchitecture {
        /// What the kernel is for.
        found: Architecture,
        /// What the image is for.
        wanted: Architecture,
    },
}

/// A kernel that a machine monitor can enter directly: an ELF file with a PVH
/// entry on x86_64, a flat Image on aarch64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootKernel {
    /// What it runs on.
    pub architecture: Architecture,
    /// Its release, as `uname -r` prints it.
    pub release: String,
    /// Whether it finds virtio-mmio devices that its command line names.
    pub virtio_mmio_command_line: bool,
    /// The file.
    pub bytes: Vec<u8>,
}

impl BootKernel {
    /// Takes a kernel in any form that distributions use: ELF, bzImage, arm64
    /// Image, EFI zboot, each compressed or not.
    ///
    /// # Errors
    /// [`KernelError`], when it is none of these, damaged, or cannot be entered
    /// directly.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, KernelError> {
        let (architecture, bytes) = unwrap(bytes, DEPTH)?;
        let release = release(&bytes).ok_or(KernelError::NoRelease)?;
        // The name of the driver's parameter is in the kernel if the driver is
        // built in and has it. A module's parameters are not looked for: who
        // loads a module passes them, and that is not the kernel.
        let virtio_mmio_command_line = find(&bytes, b"virtio_mmio.device\0").is_some();
        Ok(Self {
            architecture,
            release,
            virtio_mmio_command_line,
            bytes,
        })
    }

    /// This kernel, if it is for `wanted`.
    ///
    /// # Errors
    /// [`KernelError::WrongArchitecture`].
    pub fn expect_architecture(self, wanted: Architecture) -> Result<Self, KernelError> {
        let found = self.architecture;
        (found == wanted)
            .then_some(self)
            .ok_or(KernelError::WrongArchitecture { found, wanted })
    }
}

impl From<UnknownArchitecture> for KernelError {
    fn from(_: UnknownArchitecture) -> Self {
        Self::Unrecognised
    }
}

fn unwrap(bytes: Vec<u8>, depth: u32) -> Result<(Architecture, Vec<u8>), KernelError> {
    let depth = depth.checked_sub(1).ok_or(KernelError::Unrecognised)?;
    if let Some(compression) = Compression::of(&bytes) {
        return unwrap(compression.decompress(&bytes, LIMIT)?, depth);
    }
    if let Some(payload) = bzimage::payload(&bytes).or_else(|| arm64::zboot_payload(&bytes)) {
        let payload = payload?;
        let inner = match Compression::of(payload) {
            Some(compression) => compression.decompress(payload, LIMIT)?,
            None => payload.to_vec(),
        };
        return unwrap(inner, depth);
    }
    if arm64::is_image(&bytes) {
        return Ok((Architecture::Aarch64, bytes));
    }
    let elf = Elf::parse(&bytes).map_err(|_| KernelError::Unrecognised)?;
    match elf.architecture().map_err(KernelError::Machine)? {
        Architecture::Aarch64 => Err(KernelError::Arm64Elf),
        Architecture::X86_64 if elf.has_note(b"Xen", PVH_NOTE)? => {
            Ok((Architecture::X86_64, bytes))
        }
        Architecture::X86_64 => Err(KernelError::NoPvhEntry),
    }
}

/// The release in the banner that the kernel prints first.
fn release(bytes: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    const LONGEST: usize = 64;
    let mut rest = bytes;
    while let Some(at) = find(rest, BANNER) {
        rest = &rest[at + BANNER.len()..];
        let word = rest
            .iter()
            .take(LONGEST)
            .take_while(|byte| byte.is_ascii_graphic());
        let word: String = word.map(|byte| char::from(*byte)).collect();
        if word.starts_with(|first: char| first.is_ascii_digit()) {
            return Some(word);
        }
    }
    None
}

/// Where `needle`, which is not empty, first is in `bytes`.
fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let (first, _) = needle.split_first()?;
    let mut start = 0;
    loop {
        start += bytes.get(start..)?.iter().position(|byte| byte == first)?;
        if bytes[start..].starts_with(needle) {
            return Some(start);
        }
        start += 1;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::elf::tests::{elf, xen_note};
    use proptest::prelude::*;
    use std::io::Write as _;

    /// An x86_64 kernel as far as this code looks at one.
    pub(crate) fn vmlinux(banner: &str) -> Vec<u8> {
        let mut body = xen_note(PVH_NOTE);
        body.extend(banner.bytes());
        elf(62, 4, ".notes", &body)
    }

    /// A bzImage of protocol 2.15 around this payload.
    pub(crate) fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 3 * 512];
        file[0x1f1] = 1;
        file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        file[0x248..0x24c].copy_from_slice(&512_u32.to_le_bytes());
        let size = u32::try_from(payload.len()).unwrap();
        file[0x24c..0x250].copy_from_slice(&size.to_le_bytes());
        file.extend(payload);
        file
    }

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        let level = flate2::Compression::fast();
        flate2::write::GzEncoder::new(&mut packed, level)
            .write_all(bytes)
            .unwrap();
        packed
    }

    #[test]
    fn the_kernel_inside_a_bzimage_is_got_out() {
        let inner = vmlinux("Linux version 6.1.0-test (someone) virtio_mmio.device\0");
        let kernel = BootKernel::from_bytes(bzimage(&gzip(&inner))).unwrap();
        assert_eq!(kernel.bytes, inner);
        assert_eq!(kernel.release, "6.1.0-test");
        assert_eq!(kernel.architecture, Architecture::X86_64);
        assert!(kernel.virtio_mmio_command_line);
    }

    #[test]
    fn an_arm64_image_is_got_out_of_gzip_and_of_zboot() {
        let mut image = vec![0; 64];
        image[56..60].copy_from_slice(b"ARM\x64");
        image.extend(b"Linux version 6.12.1 (");
        let packed = gzip(&image);
        let mut zboot = b"MZ\0\0zimg".to_vec();
        zboot.extend(64_u32.to_le_bytes());
        zboot.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
        zboot.resize(64, 0);
        zboot.extend(&packed);
        for file in [packed, zboot, image.clone()] {
            let kernel = BootKernel::from_bytes(file).unwrap();
            assert_eq!(
                (kernel.architecture, &kernel.bytes),
                (Architecture::Aarch64, &image)
            );
            assert!(!kernel.virtio_mmio_command_line);
        }
    }

    #[test]
    fn the_format_string_of_a_banner_is_not_its_release() {
        let text = b"Linux version %s (%s)\0Linux version 6.6.6-x y";
        assert_eq!(release(text), Some("6.6.6-x".into()));
        assert_eq!(release(b"Linux version "), None);
    }

    #[test]
    fn what_cannot_be_booted_says_why() {
        let no_note = elf(62, 4, ".notes", &xen_note(1));
        let cases: [(Vec<u8>, &str); 6] = [
            (b"hello".to_vec(), "not a kernel"),
            (no_note, "CONFIG_PVH"),
            (elf(183, 4, ".notes", b""), "flat Image"),
            (elf(22, 4, ".notes", b""), "machine 22"),
            (vmlinux("no banner"), "banner"),
            (bzimage(b"")[..0x230].to_vec(), "setup header"),
        ];
        for (bytes, expected) in cases {
            let error = BootKernel::from_bytes(bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_kernel_for_another_architecture_is_refused() {
        let kernel = BootKernel::from_bytes(vmlinux("Linux version 6.1 ")).unwrap();
        let error = kernel
            .expect_architecture(Architecture::Aarch64)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the kernel is for x86_64, and the image for aarch64"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            changes in proptest::collection::vec((0_usize..0x260, any::<u8>()), 0..12),
            length in 0_usize..2400,
        ) {
            let mut file = bzimage(&gzip(&vmlinux("Linux version 6.1 ")));
            for (at, byte) in changes {
                file[at] = byte;
            }
            file.truncate(length);
            drop(BootKernel::from_bytes(file));
        }
    }
}
