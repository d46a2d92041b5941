//! Guest memory, and places in it.

use std::fs::File;
use std::sync::Arc;

use vm_memory::{Bytes, FileOffset, GuestAddress};

use crate::virtio::GuestMemory;

/// Where the second region begins; the first ends long before.
pub const SECOND_REGION: u64 = 1 << 30;

const REGION_SIZE: usize = 48 << 20;

/// Guest memory of two regions in memfds, with a hole between them.
#[derive(Debug)]
pub struct Arena {
    memory: Arc<GuestMemory>,
    /// The next free byte.
    free: u64,
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

impl Arena {
    /// Fresh memory.
    #[must_use]
    pub fn new() -> Self {
        let file = |name: &str| {
            let file = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            rustix::fs::ftruncate(&file, REGION_SIZE as u64).unwrap();
            Some(FileOffset::new(File::from(file), 0))
        };
        let memory = GuestMemory::from_ranges_with_files([
            (GuestAddress(0), REGION_SIZE, file("low")),
            (GuestAddress(SECOND_REGION), REGION_SIZE, file("high")),
        ]);
        Self {
            memory: Arc::new(memory.unwrap()),
            free: 0x1000,
        }
    }

    /// The memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// An unused place of the first region for `length` bytes, aligned to 16.
    ///
    /// # Panics
    /// When the region is full.
    pub fn allocate(&mut self, length: usize) -> u64 {
        let at = self.free.next_multiple_of(16);
        self.free = at + length as u64;
        assert!(self.free < REGION_SIZE as u64, "the arena is full");
        at
    }

    /// Forgets all places; what is in the memory stays.
    pub fn clear(&mut self) {
        self.free = 0x2_0000;
    }

    /// A place with `bytes` in it.
    pub fn place(&mut self, bytes: &[u8]) -> u64 {
        let at = self.allocate(bytes.len());
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
        at
    }

    /// What `length` bytes at `address` hold.
    #[must_use]
    pub fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }
}
