//! Finding a disk by where the host plugged it in.
//!
//! | address | meaning |
//! |---|---|
//! | `/dev/vda` | the node |
//! | `02`, `02/03.1` | a PCI path: slot (and function) on the root bus, then below each bridge |
//! | `0xfeb00000` | the base address of a virtio-mmio device |
//! | `serial:ID` | the serial number that the device shows |

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kata_protocol::ttrpc::{Code, Status};

use crate::service::{internal, invalid};
use crate::uevent::wait_for;

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) path: PathBuf,
    pub(super) major: i64,
    pub(super) minor: i64,
}

/// Where a disk is plugged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Node(String),
    Pci(Vec<(u8, u8)>),
    Mmio(u64),
    Serial(String),
}

impl Address {
    /// Reads one of the forms above.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some(name) = text.strip_prefix("/dev/") {
            let plain = !name.is_empty() && !name.contains(['/', '\0']);
            return plain.then(|| Self::Node(name.to_owned()));
        }
        if let Some(number) = text.strip_prefix("0x") {
            return u64::from_str_radix(number, 16).ok().map(Self::Mmio);
        }
        if let Some(serial) = text.strip_prefix("serial:") {
            return (!serial.is_empty()).then(|| Self::Serial(serial.to_owned()));
        }
        pci_path(text).map(Self::Pci)
    }
}

/// Reads `02/03.1` into slots and functions.
fn pci_path(text: &str) -> Option<Vec<(u8, u8)>> {
    let component = |part: &str| {
        let (slot, function) = part.split_once('.').unwrap_or((part, "0"));
        let hex = |text: &str| {
            let digits =
                (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
            u8::from_str_radix(text, 16).ok().filter(|_| digits)
        };
        let (slot, function) = (hex(slot)?, hex(function)?);
        (slot < 32 && function < 8).then_some((slot, function))
    };
    text.split('/').map(component).collect()
}

/// Waits for the disk at `address`.
pub(super) async fn wait(address: &str, limit: Duration) -> Result<Disk, Status> {
    let parsed = Address::parse(address).ok_or_else(|| {
        invalid(format!(
            "{address:?} is no address of a disk: neither /dev/NAME, a PCI path such as 02/03, \
             a virtio-mmio base such as 0xfeb00000, nor serial:ID"
        ))
    })?;
    wait_for(limit, || find(&parsed))
        .await
        .map_err(internal(&format!("look for the disk {address}")))?
        .ok_or_else(|| {
            let message = format!("no disk {address} appeared within {} s", limit.as_secs());
            Status::new(Code::NotFound, message)
        })
}

fn find(address: &Address) -> io::Result<Option<Disk>> {
    let place = match address {
        Address::Node(name) => return disk(name),
        Address::Pci(path) => pci_device(path)?,
        Address::Mmio(base) => mmio_device(*base)?,
        Address::Serial(_) => None,
    };
    for name in names("/sys/block")? {
        let directory = PathBuf::from("/sys/block").join(&name);
        let found = match address {
            Address::Serial(serial) => has_serial(&directory, serial),
            _ => place.as_ref().is_some_and(|place| {
                fs::canonicalize(&directory).is_ok_and(|device| device.starts_with(place))
            }),
        };
        if found {
            return disk(&name);
        }
    }
    Ok(None)
}

fn has_serial(directory: &Path, serial: &str) -> bool {
    ["serial", "device/serial"].iter().any(|file| {
        fs::read_to_string(directory.join(file)).is_ok_and(|text| text.trim() == serial)
    })
}

/// The disk, or partition, of a name, if the kernel has it.
fn disk(name: &str) -> io::Result<Option<Disk>> {
    let file = PathBuf::from("/sys/class/block").join(name).join("dev");
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let path = PathBuf::from("/dev").join(name);
    let numbers = text
        .trim()
        .split_once(':')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let (major, minor) =
        numbers.ok_or_else(|| io::Error::other(format!("{} is malformed", file.display())))?;
    Ok(path.exists().then_some(Disk { path, major, minor }))
}

/// The directory in `/sys` of the device at a PCI path, if it is there.
pub(crate) fn pci_directory(path: &str) -> io::Result<Option<PathBuf>> {
    match pci_path(path) {
        Some(path) => pci_device(&path),
        None => Err(io::Error::other(format!("{path:?} is no PCI path"))),
    }
}

fn pci_device(path: &[(u8, u8)]) -> io::Result<Option<PathBuf>> {
    let Some(mut directory) = pci_root()? else {
        return Ok(None);
    };
    let mut bus = "0000:00".to_owned();
    for (depth, (slot, function)) in path.iter().enumerate() {
        if depth > 0 {
            let Some(below) = names(directory.join("pci_bus"))?.pop() else {
                return Ok(None);
            };
            bus = below;
        }
        directory.push(format!("{bus}:{slot:02x}.{function:x}"));
        if !directory.exists() {
            return Ok(None);
        }
    }
    Ok(Some(directory))
}

/// The first host bridge: below `/sys/devices`, or a platform device's.
fn pci_root() -> io::Result<Option<PathBuf>> {
    let direct = PathBuf::from("/sys/devices/pci0000:00");
    if direct.exists() {
        return Ok(Some(direct));
    }
    let platform = PathBuf::from("/sys/devices/platform");
    let of = |name: String| platform.join(name).join("pci0000:00");
    Ok(names(&platform)?
        .into_iter()
        .map(of)
        .find(|path| path.exists()))
}

/// The directory in `/sys` of the platform device whose registers are at `base`.
fn mmio_device(base: u64) -> io::Result<Option<PathBuf>> {
    let resources = fs::read_to_string("/proc/iomem")?;
    let Some(name) = resource_at(&resources, base) else {
        return Ok(None);
    };
    let directory = PathBuf::from("/sys/bus/platform/devices").join(name);
    match fs::canonicalize(directory) {
        Ok(device) => Ok(Some(device)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The name of the resource that starts at `base`: `start-end : name …`.
fn resource_at(resources: &str, base: u64) -> Option<&str> {
    resources.lines().find_map(|line| {
        let (range, name) = line.trim().split_once(" : ")?;
        let (start, _) = range.split_once('-')?;
        let starts_here = u64::from_str_radix(start, 16) == Ok(base);
        starts_here
            .then(|| name.split_whitespace().next())
            .flatten()
    })
}

/// The names in a directory; none if it does not exist.
fn names(directory: impl AsRef<Path>) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_form() {
        assert_eq!(
            Address::parse("/dev/vda"),
            Some(Address::Node("vda".into()))
        );
        assert_eq!(
            Address::parse("02/1f.7"),
            Some(Address::Pci(vec![(2, 0), (31, 7)]))
        );
        assert_eq!(
            Address::parse("0xfeb00000"),
            Some(Address::Mmio(0xfeb0_0000))
        );
        assert_eq!(
            Address::parse("serial:root"),
            Some(Address::Serial("root".into()))
        );
        for bad in [
            "",
            "/dev/",
            "/dev/../x",
            "20",
            "02/",
            "02.8",
            "+2",
            "serial:",
            "0x",
            "vda",
        ] {
            assert_eq!(Address::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_resource_is_found_by_its_start() {
        let resources = "febfff00-febfffff : Reserved\n  feb00200-feb003ff : virtio-mmio.1 x\n";
        assert_eq!(resource_at(resources, 0xfeb0_0200), Some("virtio-mmio.1"));
        assert_eq!(resource_at(resources, 0xfeb0_0300), None);
    }

    #[test]
    fn a_disk_that_is_not_there_is_not_found() {
        assert_eq!(
            find(&Address::Serial("no such serial".into())).unwrap(),
            None
        );
        assert_eq!(find(&Address::Node("no-such-disk".into())).unwrap(), None);
    }
}
