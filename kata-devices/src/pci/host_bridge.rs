//! The host bridge: what a kernel finds at 00:00.0.

use super::bus::PciFunction;
use super::config_space::ConfigSpace;

/// "QEMU PCIe host bridge" of the Red Hat numbers for virtual hardware, which
/// kernels know and do nothing about.
const VENDOR: u16 = 0x1b36;
const DEVICE: u16 = 0x0008;

/// A host bridge without registers of its own.
#[derive(Debug)]
pub(super) struct HostBridge(ConfigSpace);

impl HostBridge {
    pub(super) fn new() -> Self {
        let mut space = ConfigSpace::new(VENDOR, DEVICE, [0x06, 0, 0], 0);
        space.allow(0x04, &[0, 0]);
        Self(space)
    }
}

impl PciFunction for HostBridge {
    fn read_config(&self, at: usize, data: &mut [u8]) {
        self.0.read(at, data);
    }

    fn write_config(&self, _at: usize, _data: &[u8]) {}

    fn bar(&self) -> Option<u64> {
        None
    }

    fn bar_size(&self) -> u64 {
        0
    }

    fn read_bar(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write_bar(&self, _offset: u64, _data: &[u8]) {}
}
