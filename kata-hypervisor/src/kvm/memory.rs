//! Guest memory: made and filled.
#![expect(unsafe_code, reason = "memory is populated by address")]

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use kata_devices::GuestMemory;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::Advice;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemory as _, GuestMemoryRegion, MemoryRegionAddress,
};

use super::settings::{MemoryBacking, PageSize, Settings};
use crate::config::MemorySize;
use crate::error::{Error, Result};

/// A machine's memory.
#[derive(Debug)]
pub(super) struct Memory {
    guest: Arc<GuestMemory>,
    /// The file without a name, where it is shared.
    file: Option<Arc<File>>,
}

impl Memory {
    /// Makes it, at these places of the guest's address space. Nothing is
    /// touched, and so nothing taken, that was not asked for.
    pub(super) fn new(
        size: MemorySize,
        ranges: &[(GuestAddress, usize)],
        settings: &Settings,
    ) -> Result<Self> {
        let huge = settings.page_size != PageSize::Ordinary;
        if huge && settings.backing == MemoryBacking::Private {
            return Err(Error::InvalidConfig {
                field: "page_size",
                reason: "huge pages come from the host's pool as shared memory only".to_owned(),
            });
        }
        let memory = Self::map(size, ranges, settings).map_err(lacking(size))?;
        if settings.prefault || huge {
            memory.populate(huge).map_err(lacking(size))?;
        }
        Ok(memory)
    }

    fn map(
        size: MemorySize,
        ranges: &[(GuestAddress, usize)],
        settings: &Settings,
    ) -> io::Result<Self> {
        if settings.backing == MemoryBacking::Private {
            let guest = GuestMemory::from_ranges(ranges).map_err(io::Error::other)?;
            return Ok(Self {
                guest: Arc::new(guest),
                file: None,
            });
        }
        let file = Arc::new(nameless_file(size, settings.page_size)?);
        let mut offset = 0;
        let parts: Vec<_> = ranges
            .iter()
            .map(|&(start, length)| {
                let part = FileOffset::from_arc(Arc::clone(&file), offset);
                offset += length as u64;
                (start, length, Some(part))
            })
            .collect();
        let guest = GuestMemory::from_ranges_with_files(parts).map_err(io::Error::other)?;
        Ok(Self {
            guest: Arc::new(guest),
            file: Some(file),
        })
    }

    /// Has the host provide every page, zeroed once, by itself.
    fn populate(&self, huge: bool) -> io::Result<()> {
        if let (true, Some(file)) = (huge, &self.file) {
            // Takes the pages from the pool, or fails; a touch would be fatal.
            rustix::fs::fallocate(file, FallocateFlags::empty(), 0, self.size())?;
            return Ok(());
        }
        for region in self.guest.iter() {
            let start = region
                .get_host_address(MemoryRegionAddress(0))
                .map_err(io::Error::other)?;
            let length = usize::try_from(region.len()).map_err(io::Error::other)?;
            // SAFETY: the region is a mapping of `self.guest`, of this length,
            // and populating it changes none of its bytes.
            unsafe { rustix::mm::madvise(start.cast(), length, Advice::LinuxPopulateWrite) }?;
        }
        Ok(())
    }

    /// What devices and loaders see of it.
    pub(super) fn guest(&self) -> &Arc<GuestMemory> {
        &self.guest
    }

    /// Bytes of it that the host has provided; `None` when only the kernel's
    /// list of mappings tells.
    pub(super) fn provided(&self) -> Option<io::Result<u64>> {
        let file = self.file.as_ref()?;
        Some(file.metadata().map(|metadata| metadata.blocks() * 512))
    }

    /// Where it is in this process.
    pub(super) fn addresses(&self) -> Vec<std::ops::Range<u64>> {
        let addresses = self.guest.iter().filter_map(|region| {
            let start = region.get_host_address(MemoryRegionAddress(0)).ok()?;
            let start = start.addr() as u64;
            Some(start..start + region.len())
        });
        addresses.collect()
    }

    fn size(&self) -> u64 {
        self.guest.iter().map(GuestMemoryRegion::len).sum()
    }
}

/// A file in memory that nobody can shrink under a running guest.
fn nameless_file(size: MemorySize, pages: PageSize) -> io::Result<File> {
    let pages = match pages {
        PageSize::Ordinary => MemfdFlags::empty(),
        PageSize::Huge2M => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
        PageSize::Huge1G => MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB,
    };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | pages;
    let file = File::from(rustix::fs::memfd_create("kata-guest", flags)?);
    file.set_len(size.as_bytes())?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}

fn lacking(size: MemorySize) -> impl Fn(io::Error) -> Error {
    move |source| Error::Host {
        operation: format!("have {size} of memory for the guest"),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(mebibytes: u64, settings: &Settings) -> Result<Memory> {
        let size = MemorySize::mib(mebibytes);
        let length = usize::try_from(size.as_bytes()).unwrap();
        Memory::new(size, &[(GuestAddress(0), length)], settings)
    }

    #[test]
    fn nothing_is_taken_before_it_is_touched() {
        let memory = make(64, &Settings::default()).unwrap();
        assert_eq!(memory.provided().unwrap().unwrap(), 0);
    }

    #[test]
    fn all_is_taken_when_it_was_asked_for() {
        let mut settings = Settings {
            prefault: true,
            ..Settings::default()
        };
        let memory = make(4, &settings).unwrap();
        assert_eq!(memory.provided().unwrap().unwrap(), 4 << 20);
        settings.backing = MemoryBacking::Private;
        let memory = make(4, &settings).unwrap();
        assert!(memory.provided().is_none());
        assert_eq!(memory.addresses().len(), 1);
    }

    #[test]
    fn memory_that_cannot_be_had_is_an_error_and_no_fault() {
        let mut settings = Settings {
            page_size: PageSize::Huge1G,
            ..Settings::default()
        };
        // More than any pool in these parts.
        let error = make(1 << 24, &settings).unwrap_err();
        assert!(error.to_string().contains("16777216 MiB"), "{error}");
        settings.page_size = PageSize::Huge2M;
        settings.backing = MemoryBacking::Private;
        assert!(matches!(
            make(2, &settings),
            Err(Error::InvalidConfig { .. })
        ));
    }

    #[test]
    fn nobody_can_shrink_it() {
        let memory = make(2, &Settings::default()).unwrap();
        let file = memory.file.as_ref().unwrap();
        assert!(file.set_len(0).is_err());
    }
}
