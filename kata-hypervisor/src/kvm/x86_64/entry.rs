//! Loading a kernel, and how it is entered.

use std::fs::File;
use std::io;

use kata_devices::GuestMemory;
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult};
use vm_memory::{Address, GuestAddress};

use super::layout;
use crate::kernel::Format;

/// How the first instruction is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kvm) enum Entry {
    /// 32-bit, by the PVH protocol.
    Pvh {
        /// Where.
        at: u64,
    },
    /// 64-bit, by the Linux boot protocol.
    Linux64 {
        /// Where.
        at: u64,
    },
}

/// A kernel in guest memory.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) entry: Entry,
    /// The first byte after it.
    pub(super) end: u64,
    /// What a bzImage says of itself.
    pub(super) header: Option<setup_header>,
}

/// Distance of a bzImage's 64-bit entry from its 32-bit one.
const ENTRY_64: u64 = 0x200;
/// `XLF_KERNEL_64`: it has that entry.
const HAS_ENTRY_64: u16 = 1;

/// Loads the kernel in `file` into `memory`.
pub(super) fn load(file: &mut File, format: Format, memory: &GuestMemory) -> io::Result<Loaded> {
    let start = Some(GuestAddress(layout::HIGH_START));
    if format == Format::BzImage {
        let loaded = BzImage::load(memory, None, file, start).map_err(io::Error::other)?;
        return bzimage(&loaded);
    }
    let loaded = Elf::load(memory, None, file, None).map_err(io::Error::other)?;
    let entry = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(at) => Entry::Pvh { at: at.raw_value() },
        _ => Entry::Linux64 {
            at: loaded.kernel_load.raw_value(),
        },
    };
    Ok(Loaded {
        entry,
        end: loaded.kernel_end,
        header: None,
    })
}

fn bzimage(loaded: &KernelLoaderResult) -> io::Result<Loaded> {
    let header = loaded.setup_header.unwrap_or_default();
    if header.version < 0x20c || header.xloadflags & HAS_ENTRY_64 == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it has no 64-bit entry (Linux 3.8 or newer, built for x86_64, has one)",
        ));
    }
    // It needs room to unpack itself, from where it is.
    let needs = loaded.kernel_load.raw_value() + u64::from(header.init_size);
    Ok(Loaded {
        entry: Entry::Linux64 {
            at: loaded.kernel_load.raw_value() + ENTRY_64,
        },
        end: loaded.kernel_end.max(needs),
        header: Some(header),
    })
}
