//! The x86 boot protocol's setup header (kernel documentation, *The Linux/x86
//! Boot Protocol*), as far as it says where the compressed kernel is.

use super::KernelError;
use crate::elf::{u16_at, u32_at};

const SETUP_SECTORS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;
/// The first protocol that says where the payload is.
const OLDEST: u16 = 0x208;

/// The compressed kernel; `None` when this is no bzImage.
pub(super) fn payload(bytes: &[u8]) -> Option<Result<&[u8], KernelError>> {
    let is_bzimage = u16_at(bytes, BOOT_FLAG)? == 0xaa55 && bytes.get(MAGIC..MAGIC + 4)? == b"HdrS";
    is_bzimage.then(|| locate(bytes).ok_or(KernelError::BzImage))
}

fn locate(bytes: &[u8]) -> Option<&[u8]> {
    if u16_at(bytes, VERSION)? < OLDEST {
        return None;
    }
    // Zero stands for four, for the sake of very old boot loaders.
    let sectors = match bytes.get(SETUP_SECTORS)? {
        0 => 4,
        sectors => usize::from(*sectors),
    };
    let offset = u32_at(bytes, PAYLOAD_OFFSET)? as usize;
    let start = (sectors + 1).checked_mul(SECTOR)?.checked_add(offset)?;
    let end = start.checked_add(u32_at(bytes, PAYLOAD_LENGTH)? as usize)?;
    bytes.get(start..end)
}
