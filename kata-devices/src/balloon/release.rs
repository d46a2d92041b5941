//! Giving pages of guest memory back to the host.
#![expect(unsafe_code, reason = "madvise on guest memory")]

use std::io;

use vm_memory::{
    Address, GuestAddress, GuestMemory as _, GuestMemoryRegion, GuestRegionMmap,
    MemoryRegionAddress,
};

use crate::virtio::GuestMemory;

/// Gives the whole host pages within a range back; they read as zeroes, or as the
/// file under a private mapping, from then on. What is not guest memory is an
/// error. Says how many bytes it gave back.
pub(super) fn release(memory: &GuestMemory, start: GuestAddress, length: u64) -> io::Result<u64> {
    let mut at = start;
    let mut left = length;
    let mut given = 0;
    while left > 0 {
        let (region, offset) = memory
            .to_region_addr(at)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let here = left.min(region.len() - offset.raw_value());
        given += release_in(region, offset, here)?;
        at = at.checked_add(here).ok_or(io::ErrorKind::InvalidInput)?;
        left -= here;
    }
    Ok(given)
}

fn release_in(
    region: &GuestRegionMmap,
    offset: MemoryRegionAddress,
    length: u64,
) -> io::Result<u64> {
    let page = page_size();
    let first = offset.raw_value().next_multiple_of(page);
    let end = (offset.raw_value() + length) / page * page;
    let Some(length) = end.checked_sub(first).filter(|length| *length > 0) else {
        return Ok(0);
    };
    let advice = if region.flags() & libc::MAP_SHARED != 0 {
        // Frees the pages of the file, too.
        libc::MADV_REMOVE
    } else {
        libc::MADV_DONTNEED
    };
    let address = region
        .get_host_address(MemoryRegionAddress(first))
        .map_err(io::Error::other)?;
    let bytes = usize::try_from(length).map_err(io::Error::other)?;
    // SAFETY: the `bytes` bytes at `address` lie within `region`, which is mapped
    // while it is borrowed: `first` and `length` are within its bounds and whole
    // pages. Guest memory is only used as volatile bytes, whose change under our
    // hands is always to be expected.
    let advised = unsafe { libc::madvise(address.cast(), bytes, advice) };
    if advised < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(length)
}

/// Bytes of the host's ordinary pages. The first answer comes from a file, and all
/// further ones from memory: a thread that may open no file must not be the first.
pub(super) fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Arena, SECOND_REGION};
    use vm_memory::Bytes;

    fn resident(memory: &GuestMemory) -> u64 {
        memory
            .iter()
            .map(|region| {
                let file = region.file_offset().unwrap().file();
                std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()) * 512
            })
            .sum()
    }

    #[test]
    fn whole_pages_are_given_back_and_their_neighbours_stay() {
        let arena = Arena::new();
        let memory = &**arena.memory();
        for base in [0, SECOND_REGION] {
            let ones = vec![1; 0x10000];
            memory.write_slice(&ones, GuestAddress(base)).unwrap();
            let before = resident(memory);
            let given = release(memory, GuestAddress(base + 0x1ffe), 0x4004).unwrap();
            assert_eq!(given, 0x4000);
            assert!(resident(memory) <= before - 0x4000);
            let mut bytes = vec![0; 0x10000];
            memory.read_slice(&mut bytes, GuestAddress(base)).unwrap();
            let expected: Vec<u8> = (0..0x10000)
                .map(|at| u8::from(!(0x2000..0x6000).contains(&at)))
                .collect();
            assert!(bytes == expected);
        }
    }

    #[test]
    fn what_is_no_memory_is_refused() {
        let arena = Arena::new();
        for (start, length) in [(SECOND_REGION - 0x1000, 0x2000), (u64::MAX - 5, 10)] {
            assert!(release(arena.memory(), GuestAddress(start), length).is_err());
        }
        assert_eq!(release(arena.memory(), GuestAddress(5), 100).unwrap(), 0);
    }
}
