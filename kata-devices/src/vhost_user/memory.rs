//! The guest's memory, as the front end hands it over.

use std::fs::File;
use std::io;
use std::sync::Arc;

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
    let mapped = region.mmap_region(file)?;
    GuestRegionMmap::new(mapped, GuestAddress(region.guest_phys_addr))
        .map(Arc::new)
        .ok_or_else(|| refused("the region does not fit into the address space"))
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::ReqHandlerError(io::Error::other(error))
}
