//! Whether a kernel finds virtio devices that its command line announces.
//!
//! A `microvm` has its virtio devices in memory at addresses that only the
//! kernel command line tells (`virtio_mmio.device=`). Distributions often build
//! their kernels without that (`CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES`), or with
//! virtio-mmio as a module; such a kernel would boot and find nothing. The name
//! of the driver's parent device in the kernel's image tells which it is.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use memchr::memmem;

use super::Format;

/// The device under which the kernel puts those of the command line.
const PARENT: &[u8] = b"virtio-mmio-cmdline";
/// More kernels than anybody uses at a time.
const MOST_KNOWN: usize = 64;

/// What is known of kernels that were looked at: a search takes some ten
/// milliseconds, which a boot need not pay again.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<HashMap<Identity, bool>>);

/// A file as it was when it was looked at.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Identity {
    device: u64,
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Known {
    /// Whether the kernel in `file` finds announced devices. A compressed one
    /// cannot be searched, and is taken not to.
    pub(crate) fn finds_announced_devices(&self, file: &File, format: Format) -> io::Result<bool> {
        if !matches!(format, Format::Elf | Format::PlainElf) {
            return Ok(false);
        }
        let identity = Identity::of(&file.metadata()?);
        let known = self.lock().get(&identity).copied();
        if let Some(known) = known {
            return Ok(known);
        }
        let found = search(file)?;
        let mut all = self.lock();
        if all.len() >= MOST_KNOWN {
            all.clear();
        }
        all.insert(identity, found);
        Ok(found)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Identity, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads from where the file stands to its end.
fn search(mut file: impl Read) -> io::Result<bool> {
    let finder = memmem::Finder::new(PARENT);
    let mut buffer = vec![0; 1 << 20];
    // The end of the last piece, in which the name may have begun.
    let mut kept = 0;
    loop {
        let read = match file.read(&mut buffer[kept..]) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let filled = kept + read;
        if finder.find(&buffer[..filled]).is_some() {
            return Ok(true);
        }
        if read == 0 {
            return Ok(false);
        }
        kept = filled.min(PARENT.len() - 1);
        buffer.copy_within(filled - kept..filled, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Hands out a few bytes at a time.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let step = self.1.min(buffer.len());
            self.0.read(&mut buffer[..step])
        }
    }

    proptest! {
        #[test]
        fn the_name_is_found_however_it_is_cut(
            before in 0usize..100, after in 0usize..100, step in 1usize..30,
        ) {
            let image = [vec![b'v'; before], PARENT.to_vec(), vec![0; after]].concat();
            prop_assert!(search(Trickle(&image, step)).unwrap());
            prop_assert!(!search(Trickle(&image[before + 1..], step)).unwrap());
        }
    }

    #[test]
    fn what_changes_is_looked_at_again() {
        let known = Known::default();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernel");
        let look = || known.finds_announced_devices(&File::open(&path).unwrap(), Format::Elf);
        std::fs::write(&path, "nothing").unwrap();
        assert!(!look().unwrap());
        std::fs::write(&path, PARENT).unwrap();
        assert!(look().unwrap());
        assert!(look().unwrap(), "from memory");
    }

    #[test]
    fn a_compressed_kernel_is_taken_not_to() {
        let file = File::open("/dev/null").unwrap();
        let found = Known::default().finds_announced_devices(&file, Format::BzImage);
        assert!(!found.unwrap());
    }
}
