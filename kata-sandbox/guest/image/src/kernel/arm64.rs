//! The arm64 boot image (kernel documentation, *Booting AArch64 Linux*) and the
//! EFI program that unpacks one (`zboot`), as far as they are recognised.

use super::KernelError;
use crate::elf::u32_at;

/// Whether this is a flat Image.
pub(super) fn is_image(bytes: &[u8]) -> bool {
    bytes.get(56..60) == Some(b"ARM\x64")
}

/// The compressed Image in an EFI zboot program; `None` when this is none.
pub(super) fn zboot_payload(bytes: &[u8]) -> Option<Result<&[u8], KernelError>> {
    let is_zboot = bytes.starts_with(b"MZ") && bytes.get(4..8)? == b"zimg";
    is_zboot.then(|| locate(bytes).ok_or(KernelError::Zboot))
}

fn locate(bytes: &[u8]) -> Option<&[u8]> {
    let start = u32_at(bytes, 8)? as usize;
    let size = u32_at(bytes, 12)? as usize;
    bytes.get(start..start.checked_add(size)?)
}
