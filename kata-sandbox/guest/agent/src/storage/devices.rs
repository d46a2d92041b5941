//! Devices of a container: the host names where they are plugged in, and the
//! specification gets the numbers that they have in this machine.

use std::time::Duration;

use kata_protocol::agent::{CreateContainerRequest, Device, LinuxDevice};
use kata_protocol::ttrpc::{Code, Status};

use super::block::{self, Address, Disk};
use crate::service::invalid;

/// The device types that this agent has.
pub(crate) const TYPES: [&str; 2] = ["blk", "mmioblk"];

/// Waits for the devices of a container and completes its specification.
pub(super) async fn complete(
    request: &mut CreateContainerRequest,
    limit: Duration,
) -> Result<(), Status> {
    for device in &request.devices {
        let disk = block::wait(address(device)?, limit).await?;
        let linux = request
            .oci
            .as_mut()
            .and_then(|spec| spec.linux.as_mut())
            .ok_or_else(|| invalid("a container with devices has no specification for Linux"))?;
        renumber(linux, device, &disk);
    }
    Ok(())
}

/// Kata names a PCI disk by the device's id and others by their node.
fn address(device: &Device) -> Result<&str, Status> {
    if !TYPES.contains(&device.r#type.as_str()) {
        let message = format!(
            "there is no device type {:?}; there are {}",
            device.r#type,
            TYPES.join(", ")
        );
        return Err(Status::new(Code::Unimplemented, message));
    }
    if device.container_path.is_empty() {
        return Err(invalid(format!(
            "the device {:?} has no path in the container",
            device.id
        )));
    }
    let by_id = matches!(Address::parse(&device.id), Some(Address::Pci(_)));
    let by_id = by_id && device.r#type == "blk";
    Ok(if by_id || device.vm_path.is_empty() {
        &device.id
    } else {
        &device.vm_path
    })
}

/// Puts the guest's numbers in the place of the host's: in the list of devices,
/// and in the rules that allow their use.
fn renumber(linux: &mut kata_protocol::agent::Linux, device: &Device, disk: &Disk) {
    let listed = linux
        .devices
        .iter_mut()
        .find(|listed| listed.path == device.container_path);
    let Some(listed) = listed else {
        linux.devices.push(LinuxDevice {
            path: device.container_path.clone(),
            r#type: "b".into(),
            major: disk.major,
            minor: disk.minor,
            file_mode: 0o660,
            uid: 0,
            gid: 0,
        });
        allow(linux, disk);
        return;
    };
    let host = (listed.major, listed.minor);
    (listed.major, listed.minor) = (disk.major, disk.minor);
    let rules = linux
        .resources
        .iter_mut()
        .flat_map(|resources| &mut resources.devices);
    for rule in rules.filter(|rule| rule.r#type == "b" && (rule.major, rule.minor) == host) {
        (rule.major, rule.minor) = (disk.major, disk.minor);
    }
}

fn allow(linux: &mut kata_protocol::agent::Linux, disk: &Disk) {
    // Without rules everything is allowed that the runtime allows by default.
    if let Some(resources) = &mut linux.resources {
        resources
            .devices
            .push(kata_protocol::agent::LinuxDeviceCgroup {
                allow: true,
                r#type: "b".into(),
                major: disk.major,
                minor: disk.minor,
                access: "rwm".into(),
            });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kata_protocol::agent::{Linux, LinuxDeviceCgroup, LinuxResources};

    fn disk() -> Disk {
        Disk {
            path: "/dev/vdb".into(),
            major: 254,
            minor: 16,
        }
    }

    #[test]
    fn the_host_s_numbers_are_replaced_in_devices_and_rules() {
        let rule = LinuxDeviceCgroup {
            allow: true,
            r#type: "b".into(),
            major: 8,
            minor: 1,
            access: "rw".into(),
        };
        let mut linux = Linux {
            devices: vec![LinuxDevice {
                path: "/dev/data".into(),
                r#type: "b".into(),
                major: 8,
                minor: 1,
                ..LinuxDevice::default()
            }],
            resources: Some(LinuxResources {
                devices: vec![rule],
                ..LinuxResources::default()
            }),
            ..Linux::default()
        };
        let device = Device {
            container_path: "/dev/data".into(),
            ..Device::default()
        };
        renumber(&mut linux, &device, &disk());
        assert_eq!((linux.devices[0].major, linux.devices[0].minor), (254, 16));
        let rule = &linux.resources.unwrap().devices[0];
        assert_eq!((rule.major, rule.minor), (254, 16));
    }

    #[test]
    fn a_device_that_is_not_listed_is_added() {
        let mut linux = Linux::default();
        let device = Device {
            container_path: "/dev/data".into(),
            ..Device::default()
        };
        renumber(&mut linux, &device, &disk());
        assert_eq!(linux.devices[0].path, "/dev/data");
        assert_eq!(linux.devices[0].r#type, "b");
    }

    #[test]
    fn an_unknown_type_is_named() {
        let device = Device {
            r#type: "tape".into(),
            ..Device::default()
        };
        let status = address(&device).unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        assert!(status.message.contains("tape"));
    }
}
