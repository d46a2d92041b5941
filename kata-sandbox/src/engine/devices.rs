//! What of a container's devices a guest can have.
//!
//! The guest's kernel makes devices of its own. Those that every Linux has under
//! the same numbers mean the same there; a block device of the host is attached
//! as a disk; any other is the host's alone, and refused.

use std::path::PathBuf;

use kata_protocol::agent::Device;
use oci_spec::runtime as oci;

use super::disks::{self, Wanted};
use crate::error::{Context, ErrorKind, Result};

/// Character devices that mean the same in every Linux: major and minor number
/// (`Documentation/admin-guide/devices.txt` of Linux).
const KNOWN: [(i64, i64); 13] = [
    (1, 3),    // null
    (1, 5),    // zero
    (1, 7),    // full
    (1, 8),    // random
    (1, 9),    // urandom
    (1, 11),   // kmsg
    (5, 0),    // tty
    (5, 1),    // console
    (5, 2),    // ptmx
    (10, 200), // net/tun
    (10, 229), // fuse
    (10, 234), // btrfs-control
    (10, 237), // loop-control
];

/// Whether a device means the same in a guest as on the host.
pub(crate) fn is_everywhere(device: &oci::LinuxDevice) -> bool {
    match device.typ() {
        oci::LinuxDeviceType::P => true,
        oci::LinuxDeviceType::C | oci::LinuxDeviceType::U => {
            KNOWN.contains(&(device.major(), device.minor()))
        }
        oci::LinuxDeviceType::B | oci::LinuxDeviceType::A => false,
    }
}

/// A block device that a container is to have under a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockDevice {
    pub(super) disk: Wanted,
    /// Where the container has it.
    pub(super) path: PathBuf,
}

impl BlockDevice {
    /// What the agent is told, once the disk has a serial number.
    pub(super) fn device(&self, id: &str) -> Device {
        Device {
            id: id.to_owned(),
            r#type: "blk".into(),
            vm_path: disks::address(id),
            container_path: self.path.display().to_string(),
            options: Vec::new(),
        }
    }
}

/// Checks every entry of `linux.devices`; answers those that are disks.
pub(super) fn block_devices(spec: &oci::Spec, context: &Context) -> Result<Vec<BlockDevice>> {
    let listed = spec.linux().as_ref().and_then(|it| it.devices().as_ref());
    let mut blocks = Vec::new();
    for (index, device) in listed.into_iter().flatten().enumerate() {
        let (major, minor) = (device.major(), device.minor());
        let what = || format!("linux.devices[{index}] ({})", device.path().display());
        match device.typ() {
            oci::LinuxDeviceType::P => {}
            oci::LinuxDeviceType::C | oci::LinuxDeviceType::U => {
                if !is_everywhere(device) {
                    let reason = format!(
                        "{} is character device {major}:{minor} of the host, which a guest \
                         does not have",
                        what()
                    );
                    return Err(context.error(ErrorKind::Unsupported, reason));
                }
            }
            oci::LinuxDeviceType::B => {
                let path = disks::node_of(major, minor).ok_or_else(|| {
                    let reason = format!("{} is {major}:{minor}, no block device here", what());
                    context.invalid(reason)
                })?;
                blocks.push(BlockDevice {
                    disk: Wanted {
                        field: what(),
                        path,
                        read_only: false,
                    },
                    path: device.path().clone(),
                });
            }
            oci::LinuxDeviceType::A => {
                let reason = format!("{} is of no type of device", what());
                return Err(context.invalid(reason));
            }
        }
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ContainerSpec, Rootfs};

    fn checked(devices: serde_json::Value) -> Result<Vec<BlockDevice>> {
        let spec = ContainerSpec::new(Rootfs::Dir("/".into())).edit_oci(|spec| {
            let devices = serde_json::from_value(devices).unwrap();
            let linux = spec.linux_mut().as_mut().unwrap();
            linux.set_devices(Some(devices));
        });
        block_devices(spec.oci(), &Context::new("create container", "s/c"))
    }

    #[test]
    fn devices_of_every_linux_pass_and_those_of_the_host_are_named() {
        let devices = serde_json::json!([
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229},
            {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200},
            {"path": "/dev/pipe", "type": "p", "major": 0, "minor": 0},
        ]);
        assert_eq!(checked(devices).unwrap(), []);
        let gpu = serde_json::json!([
            {"path": "/dev/dri/card0", "type": "c", "major": 226, "minor": 0},
        ]);
        let error = checked(gpu).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = error.to_string();
        assert!(text.contains("linux.devices[0] (/dev/dri/card0)"), "{text}");
        let nothing = serde_json::json!([
            {"path": "/dev/x", "type": "b", "major": 4095, "minor": 3},
        ]);
        let text = checked(nothing).unwrap_err().to_string();
        assert!(text.contains("4095:3, no block device"), "{text}");
    }

    #[test]
    fn the_agent_is_told_the_serial_number_and_the_path() {
        let block = BlockDevice {
            disk: Wanted {
                field: String::new(),
                path: "/dev/sda".into(),
                read_only: false,
            },
            path: "/dev/data".into(),
        };
        let device = block.device("kata-3");
        assert_eq!(device.vm_path, "serial:kata-3");
        assert_eq!(device.container_path, "/dev/data");
    }
}
