//! `-blockdev` and `-device virtio-blk-…`: disks, and ports for more of them.

use std::ffi::OsString;
use std::path::PathBuf;

use super::{Argument, Bus, Options};
use crate::medium::Medium;

/// A disk that is there from the start.
#[derive(Clone, Debug)]
pub(in crate::qemu) struct Disk {
    /// The bus it is on.
    pub(in crate::qemu) bus: Bus,
    /// Its serial number, by which QEMU knows it too.
    pub(in crate::qemu) id: String,
    /// Where its bytes are.
    pub(in crate::qemu) path: PathBuf,
    /// What is there.
    pub(in crate::qemu) medium: Medium,
    /// Whether the guest can only read it.
    pub(in crate::qemu) read_only: bool,
}

/// What QEMU calls the driver that reads a medium.
pub(in crate::qemu) fn driver(medium: Medium) -> &'static str {
    match medium {
        Medium::File => "file",
        Medium::BlockDevice => "host_device",
    }
}

/// The name of a disk's block node.
pub(in crate::qemu) fn node(id: &str) -> String {
    format!("{id}-node")
}

impl Argument for Disk {
    fn to_args(&self) -> Vec<OsString> {
        let on = |yes: bool| if yes { "on" } else { "off" };
        let node = Options::new("driver=raw")
            .set("node-name", node(&self.id))
            .set("read-only", on(self.read_only))
            .set("file.driver", driver(self.medium))
            .set("file.filename", &self.path)
            .set("discard", "unmap");
        let device = Options::new(&self.bus.device("virtio-blk"))
            .set("id", &self.id)
            .set("drive", self::node(&self.id))
            .set("serial", &self.id);
        [node.into_option("-blockdev"), device.into_option("-device")].concat()
    }
}

/// A port of the PCI Express root, for a device that may come later.
#[derive(Clone, Copy, Debug)]
pub(in crate::qemu) struct RootPort {
    /// Its number, from 0.
    pub(in crate::qemu) number: u32,
}

impl RootPort {
    /// The name of its bus.
    pub(in crate::qemu) fn name(number: u32) -> String {
        format!("port{number}")
    }
}

impl Argument for RootPort {
    fn to_args(&self) -> Vec<OsString> {
        // Chassis 0 is the root's own.
        let chassis = self.number + 1;
        Options::new("pcie-root-port")
            .set("id", Self::name(self.number))
            .number("chassis", chassis)
            .into_option("-device")
    }
}

/// Leaves plugging to PCI Express itself: kernels without ACPI's way know it.
#[derive(Clone, Copy, Debug)]
pub(in crate::qemu) struct NativeHotplug;

impl Argument for NativeHotplug {
    fn to_args(&self) -> Vec<OsString> {
        Options::new("ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off").into_option("-global")
    }
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    #[test]
    fn a_disk_is_spelled_for_each_bus_and_medium() {
        let mut disk = Disk {
            bus: Bus::Mmio,
            id: "root".into(),
            path: "/a,b".into(),
            medium: Medium::File,
            read_only: true,
        };
        assert_eq!(
            words(&disk),
            "-blockdev driver=raw,node-name=root-node,read-only=on,file.driver=file,\
             file.filename=/a,,b,discard=unmap \
             -device virtio-blk-device,id=root,drive=root-node,serial=root"
        );
        disk.bus = Bus::Pci;
        disk.medium = Medium::BlockDevice;
        disk.read_only = false;
        let spelled = words(&disk);
        assert!(
            spelled.contains("read-only=off,file.driver=host_device"),
            "{spelled}"
        );
        assert!(spelled.contains("-device virtio-blk-pci,"), "{spelled}");
    }

    #[test]
    fn each_port_has_a_chassis_of_its_own() {
        assert_eq!(
            words(&RootPort { number: 1 }),
            "-device pcie-root-port,id=port1,chassis=2"
        );
    }
}
