//! What a kernel finds in memory when it is entered: command line, initramfs,
//! memory map, by either boot protocol.

use std::ffi::CString;
use std::ops::Range;

use kata_devices::GuestMemory;
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams, Error};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress};

use super::entry::{Entry, Loaded};
use super::layout;
use super::registers;
use crate::config::MemorySize;

/// Kinds of memory.
const RAM: u32 = 1;
const RESERVED: u32 = 2;
/// The magic number of PVH's start info.
const PVH_MAGIC: u32 = 0x336e_c578;
/// Signatures of the boot sector and of its header.
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// A loader that has no number of its own.
const LOADER: u8 = 0xff;
/// `CAN_USE_HEAP` and the like are not of the 64-bit protocol; only where the
/// kernel was loaded is.
const LOADED_HIGH: u8 = 1;

/// What the kernel is to find.
#[derive(Debug)]
pub(super) struct Parameters {
    pub(super) command_line: CString,
    pub(super) initramfs: Option<Range<u64>>,
    pub(super) memory: MemorySize,
    /// Where the first ACPI table is.
    pub(super) acpi: Option<u64>,
    /// What of the address space is neither memory nor free for devices.
    pub(super) reserved: Vec<Range<u64>>,
}

impl Parameters {
    /// Writes them the way that the kernel's entry expects.
    pub(super) fn write(&self, loaded: &Loaded, memory: &GuestMemory) -> Result<(), Error> {
        let failed = |_| Error::Linux(linux_loader::configurator::linux::Error::ZeroPageSetup);
        memory
            .write_slice(
                self.command_line.as_bytes_with_nul(),
                GuestAddress(layout::COMMAND_LINE),
            )
            .map_err(failed)?;
        match loaded.entry {
            Entry::Pvh { .. } => self.write_pvh(memory),
            Entry::Linux64 { .. } => {
                registers::write_tables(memory).map_err(failed)?;
                self.write_linux(loaded.header, memory)
            }
        }
    }

    fn map(&self) -> impl Iterator<Item = (Range<u64>, u32)> {
        let usable = layout::usable(self.memory).into_iter();
        let usable = usable.map(|range| (range, RAM));
        let reserved = self.reserved.iter().cloned();
        usable.chain(reserved.map(|range| (range, RESERVED)))
    }

    fn write_pvh(&self, memory: &GuestMemory) -> Result<(), Error> {
        let map: Vec<_> = self
            .map()
            .map(|(range, type_)| hvm_memmap_table_entry {
                addr: range.start,
                size: range.end - range.start,
                type_,
                reserved: 0,
            })
            .collect();
        let mut info = hvm_start_info {
            magic: PVH_MAGIC,
            version: 1,
            cmdline_paddr: layout::COMMAND_LINE,
            memmap_paddr: layout::PVH_MEMORY_MAP,
            memmap_entries: u32::try_from(map.len()).expect("a handful"),
            rsdp_paddr: self.acpi.unwrap_or(0),
            ..hvm_start_info::default()
        };
        let mut modules = Vec::new();
        if let Some(initramfs) = &self.initramfs {
            info.nr_modules = 1;
            info.modlist_paddr = layout::PVH_MODULES;
            modules.push(hvm_modlist_entry {
                paddr: initramfs.start,
                size: initramfs.end - initramfs.start,
                ..hvm_modlist_entry::default()
            });
        }
        let mut parameters = BootParams::new(&info, GuestAddress(layout::PVH_START_INFO));
        parameters.set_sections(&map, GuestAddress(layout::PVH_MEMORY_MAP));
        parameters.set_modules(&modules, GuestAddress(layout::PVH_MODULES));
        PvhBootConfigurator::write_bootparams(&parameters, memory)
    }

    fn write_linux(&self, header: Option<setup_header>, memory: &GuestMemory) -> Result<(), Error> {
        let mut page = boot_params {
            hdr: header.unwrap_or_default(),
            ..boot_params::default()
        };
        page.hdr.boot_flag = BOOT_FLAG;
        page.hdr.header = HEADER_MAGIC;
        page.hdr.type_of_loader = LOADER;
        page.hdr.loadflags |= LOADED_HIGH;
        page.hdr.cmd_line_ptr = u32::try_from(layout::COMMAND_LINE).expect("it is low");
        if let Some(initramfs) = &self.initramfs {
            let low = |value: u64| u32::try_from(value).expect("it is below 4 GiB");
            page.hdr.ramdisk_image = low(initramfs.start);
            page.hdr.ramdisk_size = low(initramfs.end - initramfs.start);
        }
        page.acpi_rsdp_addr = self.acpi.unwrap_or(0);
        for (entry, (range, type_)) in page.e820_table.iter_mut().zip(self.map()) {
            *entry = boot_e820_entry {
                addr: range.start,
                size: range.end - range.start,
                type_,
            };
            page.e820_entries += 1;
        }
        let parameters = BootParams::new(&page, GuestAddress(layout::ZERO_PAGE));
        LinuxBootConfigurator::write_bootparams(&parameters, memory)
    }
}
