//! UpdateInterface and ListInterfaces.

use std::io;
use std::time::Duration;

use kata_protocol::ttrpc::{Code, Status};
use kata_protocol::types::{Interface, IpAddress};

use super::address::{self, InterfaceAddress};
use super::idle;
use super::link::{self, Change, IFF_NOARP, IFF_UP, Link, format_mac, parse_mac};
use super::prefix::{Prefix, wire_family};
use crate::service::{internal, invalid};
use crate::storage::pci_directory;
use crate::uevent::wait_for;

/// The longest name of an interface, without the zero byte.
const NAME: usize = 15;

/// Gives an interface the name, MTU, flags and addresses that the host wants,
/// and brings it up. A NIC that is being plugged in is waited for.
pub(crate) async fn update(wanted: &Interface, limit: Duration) -> Result<Interface, Status> {
    let by = Criterion::of(wanted)?;
    let new_mac: Option<[u8; 6]> = match wanted.new_hw_addr.as_str() {
        "" => None,
        text => Some(parse_mac(text).ok_or_else(|| no_mac(text))?),
    };
    let prefixes = prefixes(wanted)?;
    let mtu = match wanted.mtu {
        0 => None,
        mtu => Some(u32::try_from(mtu).map_err(|_| invalid(format!("{mtu} is no MTU")))?),
    };
    let name = if wanted.name.is_empty() {
        &wanted.device
    } else {
        &wanted.name
    };
    check_name(name)?;
    let mut shown = false;
    let link = wait_for(limit, || {
        let mut links = link::list()?;
        if !shown && !links.iter().any(|link| by.matches(link)) {
            shown = true;
            if idle::show()? {
                links = link::list()?;
            }
        }
        // It may have been given the other address before.
        let changed = |link: &Link| new_mac.is_some() && link.mac == new_mac;
        let found = links.iter().position(|link| by.matches(link));
        let found = found.or_else(|| links.iter().position(changed));
        Ok(found.and_then(|index| links.into_iter().nth(index)))
    })
    .await
    .map_err(internal("look for the interface"))?
    .ok_or_else(|| missing(&by, limit))?;
    if let Some(mac) = new_mac.filter(|mac| link.mac != Some(*mac)) {
        Change {
            mac: Some(mac),
            ..Change::default()
        }
        .of_index(link.index)
        .map_err(internal(&format!("change the hardware address of {name}")))?;
    }
    configure(&link, name, mtu, wanted.raw_flags, &prefixes)
        .map_err(internal(&format!("set up the interface {name}")))?;
    let mut updated = wanted.clone();
    updated.name.clone_from(name);
    updated.device.clone_from(name);
    Ok(updated)
}

/// Hides cards that none of these interfaces is on.
pub(super) fn hide_others(wanted: &[Interface]) -> Result<(), Status> {
    let links = link::list().map_err(internal("list the interfaces"))?;
    let name = |it: &Interface| match it.name.as_str() {
        "" => it.device.clone(),
        name => name.to_owned(),
    };
    let names: Vec<String> = wanted.iter().map(name).collect();
    let used = links.iter().filter(|link| names.contains(&link.name));
    let used: Vec<u32> = used.map(|link| link.index).collect();
    idle::hide(&links, &used);
    Ok(())
}

fn configure(
    link: &Link,
    name: &str,
    mtu: Option<u32>,
    flags: u32,
    prefixes: &[Prefix],
) -> io::Result<()> {
    if !name.is_empty() && link.name != name {
        make_way(name)?;
        if link.flags & IFF_UP != 0 {
            Change::down().of_index(link.index)?;
        }
        Change {
            name: Some(name),
            ..Change::default()
        }
        .of_index(link.index)?;
    }
    let flags = Some((IFF_UP | IFF_NOARP, IFF_UP | flags & IFF_NOARP));
    Change {
        mtu,
        flags,
        ..Change::default()
    }
    .of_index(link.index)?;
    address::replace(link.index, prefixes)
}

/// Renames the interface that has `name`, if one does: the host's order of
/// interfaces need not be the guest's.
fn make_way(name: &str) -> io::Result<()> {
    let Some(other) = link::list()?.into_iter().find(|link| link.name == name) else {
        return Ok(());
    };
    if other.flags & IFF_UP != 0 {
        Change::down().of_index(other.index)?;
    }
    let aside = format!("moved{}", other.index);
    Change {
        name: Some(&aside),
        ..Change::default()
    }
    .of_index(other.index)
}

/// How the host tells which interface it means.
#[derive(Debug, PartialEq, Eq)]
enum Criterion {
    Mac([u8; 6]),
    Pci(String),
    Name(String),
}

impl Criterion {
    fn of(wanted: &Interface) -> Result<Self, Status> {
        if !wanted.hw_addr.is_empty() {
            return parse_mac(&wanted.hw_addr)
                .map(Self::Mac)
                .ok_or_else(|| no_mac(&wanted.hw_addr));
        }
        if !wanted.device_path.is_empty() {
            return Ok(Self::Pci(wanted.device_path.clone()));
        }
        let name = if wanted.device.is_empty() {
            &wanted.name
        } else {
            &wanted.device
        };
        check_name(name)?;
        Ok(Self::Name(name.clone()))
    }

    fn matches(&self, link: &Link) -> bool {
        match self {
            Self::Mac(mac) => link.mac == Some(*mac),
            Self::Name(name) => link.name == *name,
            Self::Pci(path) => pci_directory(path).ok().flatten().is_some_and(|directory| {
                std::fs::canonicalize(format!("/sys/class/net/{}", link.name))
                    .is_ok_and(|device| device.starts_with(directory))
            }),
        }
    }
}

fn no_mac(text: &str) -> Status {
    invalid(format!("{text:?} is no hardware address"))
}

fn missing(by: &Criterion, limit: Duration) -> Status {
    let what = match by {
        Criterion::Mac(mac) => format!("hardware address {}", format_mac(*mac)),
        Criterion::Pci(path) => format!("PCI path {path}"),
        Criterion::Name(name) => format!("name {name}"),
    };
    let message = format!(
        "no interface of {what} appeared within {} s",
        limit.as_secs()
    );
    Status::new(Code::NotFound, message)
}

fn check_name(name: &str) -> Result<(), Status> {
    let fits = !name.is_empty() && name.len() <= NAME && name != "." && name != "..";
    if fits && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0') {
        Ok(())
    } else {
        Err(invalid(format!("{name:?} is no name for an interface")))
    }
}

fn prefixes(wanted: &Interface) -> Result<Vec<Prefix>, Status> {
    let parse = |address: &IpAddress| {
        Prefix::new(&address.address, &address.mask).ok_or_else(|| {
            invalid(format!(
                "{}/{} is no address",
                address.address, address.mask
            ))
        })
    };
    wanted.ip_addresses.iter().map(parse).collect()
}

/// Every interface but the loopback's.
pub(crate) fn list() -> Result<Vec<Interface>, Status> {
    let links = link::list().map_err(internal("list the interfaces"))?;
    let addresses = address::list().map_err(internal("list the addresses"))?;
    Ok(links
        .into_iter()
        .filter(|link| link.name != "lo")
        .map(|l| describe(l, &addresses))
        .collect())
}

fn describe(link: Link, addresses: &[InterfaceAddress]) -> Interface {
    let ip_addresses = addresses
        .iter()
        .filter(|address| address.index == link.index);
    Interface {
        device: link.name.clone(),
        name: link.name,
        ip_addresses: ip_addresses
            .map(|InterfaceAddress { prefix, .. }| IpAddress {
                family: wire_family(prefix.address),
                address: prefix.address.to_string(),
                mask: prefix.length.to_string(),
            })
            .collect(),
        mtu: u64::from(link.mtu),
        hw_addr: link.mac.map(format_mac).unwrap_or_default(),
        device_path: String::new(),
        r#type: link.kind,
        raw_flags: link.flags,
        new_hw_addr: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_refuses_are_refused_first() {
        for name in ["", "..", "a/b", "a b", "sixteen-letters-", "a\0"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name("eth0").is_ok());
    }

    #[test]
    fn the_hardware_address_goes_before_the_path_and_the_name() {
        let mut wanted = Interface {
            name: "eth0".into(),
            device_path: "02".into(),
            hw_addr: "52:54:00:12:34:56".into(),
            ..Interface::default()
        };
        assert!(matches!(Criterion::of(&wanted), Ok(Criterion::Mac(_))));
        wanted.hw_addr.clear();
        assert_eq!(Criterion::of(&wanted).unwrap(), Criterion::Pci("02".into()));
        wanted.device_path.clear();
        assert_eq!(
            Criterion::of(&wanted).unwrap(),
            Criterion::Name("eth0".into())
        );
    }
}
