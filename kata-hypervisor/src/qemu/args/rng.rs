//! `-device virtio-rng-…`: entropy.

use std::ffi::OsString;

use super::{Argument, Bus, Options};

/// An entropy device fed by QEMU's own generator, which needs no file.
#[derive(Clone, Copy, Debug)]
pub(in crate::qemu) struct Rng {
    /// The bus it is on.
    pub(in crate::qemu) bus: Bus,
}

impl Argument for Rng {
    fn to_args(&self) -> Vec<OsString> {
        let source = Options::new("rng-builtin")
            .set("id", "rng")
            .into_option("-object");
        let device = Options::new(&self.bus.device("virtio-rng")).set("rng", "rng");
        [source, device.into_option("-device")].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    #[test]
    fn the_source_comes_before_the_device() {
        assert_eq!(
            words(&Rng { bus: Bus::Mmio }),
            "-object rng-builtin,id=rng -device virtio-rng-device,rng=rng"
        );
    }
}
