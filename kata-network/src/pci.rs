//! Functions on a PCI bus, as sysfs shows them
//! (`Documentation/PCI/sysfs-pci.rst`, `Documentation/PCI/pci-iov-howto.rst`).

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::address::ParseError;

/// Where a function is on the host's PCI buses, such as `0000:01:00.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    /// The segment of buses.
    pub domain: u32,
    /// The bus of that segment.
    pub bus: u8,
    /// The device on that bus, from 0 to 31.
    pub device: u8,
    /// The function of that device, from 0 to 7.
    pub function: u8,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

impl FromStr for PciAddress {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parse = || {
            // `from_str_radix` takes a sign, an address does not.
            let digits = text
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte));
            let text = digits.then_some(text)?;
            let (domain, rest) = text.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            let byte = |text, most| {
                let number = u8::from_str_radix(text, 16).ok()?;
                (number <= most).then_some(number)
            };
            Some(Self {
                domain: u32::from_str_radix(domain, 16).ok()?,
                bus: byte(bus, u8::MAX)?,
                device: byte(device, 31)?,
                function: byte(function, 7)?,
            })
        };
        parse().ok_or_else(|| ParseError::new(text, "PCI address"))
    }
}

/// A function of a device on a PCI bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PciFunction {
    /// Where it is.
    pub address: PciAddress,
    /// The physical function of which it is a virtual one; `None` for a
    /// physical function.
    pub virtual_of: Option<PciAddress>,
}

impl PciFunction {
    /// A physical function.
    #[must_use]
    pub const fn physical(address: PciAddress) -> Self {
        Self {
            address,
            virtual_of: None,
        }
    }

    /// A virtual function of that physical one.
    #[must_use]
    pub const fn virtual_of(address: PciAddress, physical: PciAddress) -> Self {
        Self {
            address,
            virtual_of: Some(physical),
        }
    }

    /// The function that a device is, or is on: a virtio card is on a bus of its
    /// own, whose parent is a PCI function. `None` for other devices, such as
    /// those on USB. `sys` is where sysfs is mounted.
    pub(crate) fn of(sys: &Path, bus: &str, device: &str) -> Option<Self> {
        let device = sys.join("bus").join(bus).join("devices").join(device);
        let path = std::fs::canonicalize(device).ok()?;
        let (address, path) = path.ancestors().find_map(|path| {
            let subsystem = std::fs::read_link(path.join("subsystem")).ok()?;
            if subsystem.file_name()? != "pci" {
                return None;
            }
            let address = path.file_name()?.to_str()?.parse().ok()?;
            Some((address, path))
        })?;
        let physical = std::fs::read_link(path.join("physfn")).ok();
        let physical = physical.and_then(|path| path.file_name()?.to_str()?.parse().ok());
        Some(Self {
            address,
            virtual_of: physical,
        })
    }
}

impl fmt::Display for PciFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.virtual_of {
            None => write!(f, "the physical function {}", self.address),
            Some(physical) => {
                write!(f, "the virtual function {} of {physical}", self.address)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn addresses_are_as_sysfs_writes_them() {
        let address: PciAddress = "0000:01:1f.7".parse().unwrap();
        assert_eq!((address.bus, address.device, address.function), (1, 31, 7));
        assert_eq!(address.to_string(), "0000:01:1f.7");
        // Bridges of virtual machines make domains of more than four digits.
        assert_eq!(
            "10000:00:00.0".parse::<PciAddress>().unwrap().to_string(),
            "10000:00:00.0"
        );
        for wrong in [
            "",
            "01:00.0",
            "0000:01:00",
            "0000:01:20.0",
            "0000:01:00.8",
            "0000:+1:00.0",
        ] {
            assert!(wrong.parse::<PciAddress>().is_err(), "{wrong}");
        }
    }

    /// A sysfs with a physical function, a virtual one of it, a virtio card on a
    /// third and a card on USB.
    fn sysfs() -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        let at = |path: &str| sys.path().join(path);
        for (bus, name, path) in [
            ("pci", "0000:01:00.0", "devices/pci0000:00/0000:01:00.0"),
            ("pci", "0000:01:10.0", "devices/pci0000:00/0000:01:10.0"),
            ("pci", "0000:00:03.0", "devices/pci0000:00/0000:00:03.0"),
            (
                "virtio",
                "virtio0",
                "devices/pci0000:00/0000:00:03.0/virtio0",
            ),
            ("usb", "1-1:1.0", "devices/platform/1-1:1.0"),
        ] {
            let devices = at(&format!("bus/{bus}/devices"));
            std::fs::create_dir_all(&devices).unwrap();
            std::fs::create_dir_all(at(path)).unwrap();
            symlink(at(&format!("bus/{bus}")), at(path).join("subsystem")).unwrap();
            symlink(at(path), devices.join(name)).unwrap();
        }
        let physical = at("devices/pci0000:00/0000:01:10.0/physfn");
        symlink("../0000:01:00.0", physical).unwrap();
        sys
    }

    #[test]
    fn a_function_is_found_however_deep_the_card_is() {
        let sys = sysfs();
        let of = |bus, device| PciFunction::of(sys.path(), bus, device);
        let address = |text: &str| text.parse().unwrap();
        let physical = address("0000:01:00.0");
        assert_eq!(
            of("pci", "0000:01:00.0"),
            Some(PciFunction::physical(physical))
        );
        let function = PciFunction::virtual_of(address("0000:01:10.0"), physical);
        assert_eq!(of("pci", "0000:01:10.0"), Some(function));
        let card = PciFunction::physical(address("0000:00:03.0"));
        assert_eq!(of("virtio", "virtio0"), Some(card));
        assert_eq!(of("usb", "1-1:1.0"), None);
        assert_eq!(of("pci", "0000:09:00.0"), None);
    }
}
