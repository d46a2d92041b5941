//! `-m` and `-object memory-backend-memfd`: the guest's memory.

use std::ffi::OsString;

use super::machine::MEMORY_ID;
use super::{Argument, Options};
use crate::config::MemorySize;
use crate::validate::MEMORY_GRAIN;

/// How much memory there is, and may be.
#[derive(Clone, Copy, Debug)]
pub(in crate::qemu) struct Memory {
    /// At boot.
    pub(in crate::qemu) now: MemorySize,
    /// At most.
    pub(in crate::qemu) most: MemorySize,
}

impl Argument for Memory {
    fn to_args(&self) -> Vec<OsString> {
        let options = Options::new(&format!("{}B", self.now.as_bytes()));
        if self.most == self.now {
            return options.into_option("-m");
        }
        options
            .number("slots", 1)
            .set("maxmem", format!("{}B", self.most.as_bytes()))
            .into_option("-m")
    }
}

/// Memory that device back ends outside QEMU can map.
#[derive(Clone, Copy, Debug)]
pub(in crate::qemu) struct MemfdBackend {
    /// Its size.
    pub(in crate::qemu) size: MemorySize,
}

impl Argument for MemfdBackend {
    fn to_args(&self) -> Vec<OsString> {
        Options::new("memory-backend-memfd")
            .set("id", MEMORY_ID)
            .set("size", format!("{}B", self.size.as_bytes()))
            .set("share", "on")
            .into_option("-object")
    }
}

/// Memory that comes and goes while the machine runs: room for all of it is
/// set aside, and none of it is there. Back ends map it once, at the start.
#[derive(Clone, Copy, Debug)]
pub(in crate::qemu) struct PluggedMemory {
    /// How much there may be.
    pub(in crate::qemu) most: MemorySize,
}

impl PluggedMemory {
    /// The id of the device.
    pub(in crate::qemu) const ID: &str = "plugged";
}

impl Argument for PluggedMemory {
    fn to_args(&self) -> Vec<OsString> {
        let backend = format!("{}-mem", Self::ID);
        let memory = Options::new("memory-backend-memfd")
            .set("id", &backend)
            .set("size", format!("{}B", self.most.as_bytes()))
            .set("share", "on")
            .set("reserve", "off");
        let device = Options::new("virtio-mem-pci")
            .set("id", Self::ID)
            .set("memdev", &backend)
            .number("block-size", MEMORY_GRAIN)
            .number("requested-size", 0);
        [memory.into_option("-object"), device.into_option("-device")].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    #[test]
    fn memory_is_given_to_the_byte() {
        let now = MemorySize::mib(1);
        assert_eq!(words(&Memory { now, most: now }), "-m 1048576B");
        assert_eq!(
            words(&MemfdBackend { size: now }),
            "-object memory-backend-memfd,id=mem,size=1048576B,share=on"
        );
    }

    #[test]
    fn memory_that_may_grow_has_a_slot() {
        let memory = Memory {
            now: MemorySize::mib(1),
            most: MemorySize::mib(2),
        };
        assert_eq!(words(&memory), "-m 1048576B,slots=1,maxmem=2097152B");
    }

    #[test]
    fn memory_to_be_plugged_is_shared_and_not_there_yet() {
        let most = MemorySize::mib(4);
        assert_eq!(
            words(&PluggedMemory { most }),
            "-object memory-backend-memfd,id=plugged-mem,size=4194304B,share=on,reserve=off \
             -device virtio-mem-pci,id=plugged,memdev=plugged-mem,block-size=2097152,\
             requested-size=0"
        );
    }
}
