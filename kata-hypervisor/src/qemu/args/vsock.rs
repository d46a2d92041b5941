//! `-device vhost-user-vsock-…`: the streams between host and guest.

use std::ffi::OsString;

use super::{Argument, Bus, Options};

/// A virtio-vsock device served by a vhost-user back end, which also knows the
/// guest's context id.
#[derive(Clone, Debug)]
pub(in crate::qemu) struct VhostUserVsock {
    /// The bus it is on.
    pub(in crate::qemu) bus: Bus,
    /// The character device that leads to its back end.
    pub(in crate::qemu) chardev: String,
}

impl Argument for VhostUserVsock {
    fn to_args(&self) -> Vec<OsString> {
        Options::new(&self.bus.device("vhost-user-vsock"))
            .set("chardev", &self.chardev)
            .into_option("-device")
    }
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    #[test]
    fn it_is_spelled_for_each_bus() {
        let mut vsock = VhostUserVsock {
            bus: Bus::Mmio,
            chardev: "vsock".into(),
        };
        assert_eq!(
            words(&vsock),
            "-device vhost-user-vsock-device,chardev=vsock"
        );
        vsock.bus = Bus::Pci;
        assert_eq!(words(&vsock), "-device vhost-user-vsock-pci,chardev=vsock");
    }
}
