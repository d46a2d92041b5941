//! `-device vhost-user-fs-…`: a shared directory.

use std::ffi::OsString;

use super::{Argument, Bus, Options};

/// A virtio-fs device served by a vhost-user back end.
#[derive(Clone, Debug)]
pub(in crate::qemu) struct VhostUserFs {
    /// The bus it is on.
    pub(in crate::qemu) bus: Bus,
    /// The character device that leads to its back end.
    pub(in crate::qemu) chardev: String,
    /// The tag by which the guest mounts it.
    pub(in crate::qemu) tag: String,
}

impl Argument for VhostUserFs {
    fn to_args(&self) -> Vec<OsString> {
        Options::new(&self.bus.device("vhost-user-fs"))
            .set("chardev", &self.chardev)
            .set("tag", &self.tag)
            .into_option("-device")
    }
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    #[test]
    fn it_is_spelled_for_each_bus() {
        let mut fs = VhostUserFs {
            bus: Bus::Mmio,
            chardev: "fs0".into(),
            tag: "kata".into(),
        };
        assert_eq!(
            words(&fs),
            "-device vhost-user-fs-device,chardev=fs0,tag=kata"
        );
        fs.bus = Bus::Pci;
        assert_eq!(words(&fs), "-device vhost-user-fs-pci,chardev=fs0,tag=kata");
    }
}
