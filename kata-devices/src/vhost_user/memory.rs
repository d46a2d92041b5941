//! The guest's memory, as the front end hands it over.

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::SealFlags;
use vhost::vhost_user::Error;
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{GuestAddress, GuestMemory as _, GuestMemoryRegion, GuestRegionMmap};

use super::handler::refused;
use crate::virtio::GuestMemory;

/// The most regions that a front end may hand over.
pub(super) const MAX_REGIONS: usize = 64;

/// Where a region is for the front end.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    front_end: u64,
    guest: u64,
    size: u64,
}

/// Guest memory and the front end's view of it.
#[derive(Debug)]
pub(super) struct SharedMemory {
    memory: Arc<GuestMemory>,
    mappings: Vec<Mapping>,
}

impl Default for SharedMemory {
    fn default() -> Self {
        Self {
            memory: Arc::new(GuestMemory::new()),
            mappings: Vec::new(),
        }
    }
}

impl SharedMemory {
    /// Guest memory now.
    pub(super) fn memory(&self) -> Arc<GuestMemory> {
        Arc::clone(&self.memory)
    }

    /// Replaces all regions.
    pub(super) fn replace(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
    ) -> Result<(), Error> {
        if regions.len() > MAX_REGIONS {
            return Err(refused("too many regions"));
        }
        let mapped: Vec<Arc<GuestRegionMmap>> = regions
            .iter()
            .zip(files)
            .map(|(region, file)| map(region, file))
            .collect::<Result<_, _>>()?;
        self.memory = Arc::new(GuestMemory::from_arc_regions(mapped).map_err(invalid)?);
        self.mappings = regions.iter().map(Mapping::of).collect();
        Ok(())
    }

    /// Adds a region.
    pub(super) fn add(&mut self, region: &VhostUserMemoryRegion, file: File) -> Result<(), Error> {
        if self.mappings.len() == MAX_REGIONS {
            return Err(refused("too many regions"));
        }
        let memory = self
            .memory
            .insert_region(map(region, file)?)
            .map_err(invalid)?;
        self.memory = Arc::new(memory);
        self.mappings.push(Mapping::of(region));
        Ok(())
    }

    /// Takes a region away.
    pub(super) fn remove(&mut self, region: &VhostUserMemoryRegion) -> Result<(), Error> {
        let start = GuestAddress(region.guest_phys_addr);
        let (memory, _) = self
            .memory
            .remove_region(start, region.memory_size)
            .map_err(invalid)?;
        self.memory = Arc::new(memory);
        self.mappings
            .retain(|mapping| mapping.guest != region.guest_phys_addr);
        Ok(())
    }

    /// The guest's address of what the front end has at `address`.
    pub(super) fn translate(&self, address: u64) -> Result<GuestAddress, Error> {
        self.mappings
            .iter()
            .find_map(|mapping| {
                let offset = address.checked_sub(mapping.front_end)?;
                (offset < mapping.size).then(|| GuestAddress(mapping.guest + offset))
            })
            .ok_or_else(|| refused("the queue does not lie in guest memory"))
    }

    /// Bytes of guest memory.
    pub(super) fn size(&self) -> u64 {
        self.memory.iter().map(GuestMemoryRegion::len).sum()
    }
}

impl Mapping {
    fn of(region: &VhostUserMemoryRegion) -> Self {
        Self {
            front_end: region.user_addr,
            guest: region.guest_phys_addr,
            size: region.memory_size,
        }
    }
}

fn map(region: &VhostUserMemoryRegion, file: File) -> Result<Arc<GuestRegionMmap>, Error> {
    cannot_shrink(region, &file)?;
    let mapped = region.mmap_region(file)?;
    GuestRegionMmap::new(mapped, GuestAddress(region.guest_phys_addr))
        .map(Arc::new)
        .ok_or_else(|| refused("the region does not fit into the address space"))
}

/// Memory that goes away while it is mapped is a signal to this process: the region
/// must lie within its file. Where the file is one that can be sealed, it is, so
/// that it stays so; where it cannot be any more, it must be sealed already.
fn cannot_shrink(region: &VhostUserMemoryRegion, file: &File) -> Result<(), Error> {
    let length = file.metadata().map_err(Error::ReqHandlerError)?.len();
    let end = region.mmap_offset.checked_add(region.memory_size);
    if end.is_none_or(|end| end > length) {
        return Err(refused("the region is larger than its file"));
    }
    match rustix::fs::fcntl_get_seals(file) {
        Ok(seals) if seals.contains(SealFlags::SHRINK) => Ok(()),
        Ok(seals) if seals.contains(SealFlags::SEAL) => {
            // QEMU seals its memfds against further seals. Whoever could shrink it
            // is the front end, which is trusted to live with what it breaks.
            log::debug!("vhost-user: guest memory could shrink, and cannot be sealed");
            Ok(())
        }
        Ok(_) => rustix::fs::fcntl_add_seals(file, SealFlags::SHRINK)
            .map_err(|error| Error::ReqHandlerError(error.into())),
        // A file of hugetlbfs or a disk has no seals.
        Err(_) => Ok(()),
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::ReqHandlerError(io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    const SIZE: u64 = 1 << 20;

    fn memfd(flags: MemfdFlags, size: u64) -> File {
        let file = memfd_create("guest", flags | MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, size).unwrap();
        file.into()
    }

    fn region(offset: u64) -> VhostUserMemoryRegion {
        VhostUserMemoryRegion::new(0, SIZE, 0x7000_0000, offset)
    }

    #[test]
    fn a_region_beyond_the_end_of_its_file_is_refused() {
        for (size, offset) in [(SIZE - 1, 0), (SIZE, 1), (SIZE, u64::MAX)] {
            let file = memfd(MemfdFlags::ALLOW_SEALING, size);
            assert!(SharedMemory::default().add(&region(offset), file).is_err());
        }
    }

    #[test]
    fn memory_that_is_mapped_can_shrink_no_more() {
        let file = memfd(MemfdFlags::ALLOW_SEALING, SIZE);
        let theirs = file.try_clone().unwrap();
        let mut memory = SharedMemory::default();
        memory.add(&region(0), file).unwrap();
        assert!(ftruncate(&theirs, 0).is_err());
        ftruncate(&theirs, 2 * SIZE).unwrap();
        assert_eq!(memory.size(), SIZE);
    }

    #[test]
    fn memory_that_cannot_be_sealed_is_mapped_all_the_same() {
        let file = memfd(MemfdFlags::empty(), SIZE);
        SharedMemory::default().add(&region(0), file).unwrap();
    }
}
