//! Everything that a kernel finds in memory when its first instruction runs.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use kata_devices::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::entry::{self, Entry, Loaded};
use super::parameters::Parameters;
use super::{Description, acpi, layout, mptable};
use crate::config::VmConfig;
use crate::error::{Error, Result};
use crate::kernel::Format;
use crate::kvm::devices::Topology;

/// Kernels are told where the initramfs is in 32 bits, of which old ones take 31.
const INITRAMFS_END: u64 = 2 << 30;
const PAGE: u64 = 4096;

/// What is to be put into memory.
#[derive(Debug)]
pub(in crate::kvm) struct Plan<'a> {
    /// The machine.
    pub(in crate::kvm) config: &'a VmConfig,
    /// What the kernel is.
    pub(in crate::kvm) format: Format,
    /// How it learns of the machine.
    pub(in crate::kvm) description: Description,
    /// What it is told.
    pub(in crate::kvm) command_line: &'a str,
    /// How its devices are found.
    pub(in crate::kvm) topology: &'a Topology,
}

impl Plan<'_> {
    /// Puts it there, and says how the kernel is entered.
    pub(in crate::kvm) fn carry_out(&self, memory: &GuestMemory) -> Result<Entry> {
        let loaded = self.kernel(memory)?;
        let initramfs = self
            .config
            .initramfs
            .as_deref()
            .map(|path| self.initramfs(path, loaded.end, memory))
            .transpose()?;
        let acpi = self.tables(memory).map_err(unwritable)?;
        let command_line = CString::new(self.command_line).map_err(|_| Error::InvalidConfig {
            field: "command_line",
            reason: "it has a zero byte in it".to_owned(),
        })?;
        let parameters = Parameters {
            command_line,
            initramfs,
            memory: self.config.size.memory,
            acpi,
            reserved: self.reserved(),
        };
        parameters.write(&loaded, memory).map_err(unwritable)?;
        Ok(loaded.entry)
    }

    /// Kernels use the window of configuration space only where it is reserved.
    fn reserved(&self) -> Vec<Range<u64>> {
        let mut reserved = vec![layout::TABLES];
        if *self.topology == Topology::Pci {
            reserved.push(layout::PCI_CONFIG);
        }
        reserved
    }

    fn kernel(&self, memory: &GuestMemory) -> Result<Loaded> {
        let failed = file_error("kernel", &self.config.kernel);
        let mut file = File::open(&self.config.kernel).map_err(&failed)?;
        entry::load(&mut file, self.format, memory).map_err(failed)
    }

    /// As high as it can be, where it is least in the kernel's way.
    fn initramfs(&self, path: &Path, kernel_end: u64, memory: &GuestMemory) -> Result<Range<u64>> {
        let failed = file_error("initramfs", path);
        let mut file = File::open(path).map_err(&failed)?;
        let length = file.metadata().map_err(&failed)?.len();
        let end = layout::below_gap(self.config.size.memory).min(INITRAMFS_END);
        let start = end.checked_sub(length).map(|start| start / PAGE * PAGE);
        let Some(start) = start.filter(|start| *start >= kernel_end) else {
            let size = self.config.size.memory;
            let reason = format!("{size} have no room for the kernel and {length} bytes beside it");
            return Err(Error::InvalidConfig {
                field: "memory",
                reason,
            });
        };
        let bytes = usize::try_from(length).map_err(|error| failed(io::Error::other(error)))?;
        memory
            .read_exact_volatile_from(GuestAddress(start), &mut file, bytes)
            .map_err(|error| failed(io::Error::other(error)))?;
        Ok(start..start + length)
    }

    /// Writes what describes the machine; says where ACPI begins.
    fn tables(&self, memory: &GuestMemory) -> vm_memory::GuestMemoryResult<Option<u64>> {
        let vcpus = u8::try_from(self.config.size.vcpus).expect("validated");
        match self.description {
            Description::CommandLine => {
                let table = mptable::table(vcpus);
                memory.write_slice(&table, GuestAddress(layout::MP_TABLE))?;
                Ok(None)
            }
            Description::Acpi => {
                let tables = acpi::tables(vcpus, self.topology);
                memory.write_slice(&tables, GuestAddress(layout::ACPI_TABLES))?;
                Ok(Some(layout::ACPI_TABLES))
            }
        }
    }
}

fn file_error<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |source| Error::File {
        what,
        path: path.to_owned(),
        source,
    }
}

fn unwritable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Host {
        operation: "write boot parameters into the guest's memory".to_owned(),
        source: io::Error::other(error),
    }
}
