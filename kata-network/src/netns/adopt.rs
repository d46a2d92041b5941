//! From a network namespace to a lease.

use std::path::Path;
use std::time::Instant;

use super::joined::{Connection, Joined};
use super::options::Options;
use crate::address::MacAddress;
use crate::endpoint::{Attachment, Endpoint, HostDevice};
use crate::error::{Error, Result};
use crate::guest::GuestInterface;
use crate::lease::{Lease, Phase};
use crate::pci::PciFunction;
use crate::rtnl::{Link, Rtnl};
use crate::scan::Scan;
use crate::setup::SetupRequest;
use crate::wiring::{self, WiringModel};

/// Kinds of links that every new namespace has where the host's kernel has the
/// protocol: nobody set them up.
const FALLBACKS: [&str; 9] = [
    "ipip", "gre", "gretap", "erspan", "sit", "ip6tnl", "ip6gre", "vti", "vti6",
];

/// Devices are the same in all network namespaces: the host's will do.
const SYSFS: &str = "/sys";

/// Connects what is in the calling thread's namespace, but for what is joined
/// already; what is joined now is noted there. Taps that are reserved are taken
/// before others are made, of which there may be so many.
pub(super) fn adopt(
    options: &Options,
    request: &SetupRequest,
    connection: &mut Connection,
) -> Result<Lease> {
    let failed = |what: &'static str| Error::host(what);
    let began = Instant::now();
    let mut rtnl = Rtnl::open().map_err(failed("talk to the kernel's routing"))?;
    let scan = Scan::take(&mut rtnl).map_err(failed("list what is in the network namespace"))?;
    let mut lease = Lease::new();
    lease.phases.push(Phase::ended("network scan", began));
    let began = Instant::now();
    lease.gone = let_go(&mut rtnl, &scan, &mut connection.joined)?;
    for link in scan.links.iter().filter(|link| is_wanted(&scan, link)) {
        let mac = hardware_address(link)?;
        let mut joined = connection.joined.iter_mut();
        if let Some(known) = joined.find(|known| known.is(link)) {
            lease.interfaces.push(describe(&scan, link, known.mac, mac));
            known.mac = mac;
            continue;
        }
        let model = options.wiring_of(&link.name);
        let device = if model.is_by_filters(link)
            && let Some(reserved) = connection.reserved.pop_front()
        {
            wiring::join_reserved(&mut rtnl, link, &reserved.tap)?;
            reserved.mac
        } else if lease.endpoints.len() == request.most_devices {
            lease.left_out.push(link.name.clone());
            continue;
        } else {
            let attachment = attach(&mut rtnl, options, link, request.queues)?;
            let endpoint = Endpoint::new(attachment, mac, link.mtu);
            lease.endpoints.push(endpoint);
            mac
        };
        lease.interfaces.push(describe(&scan, link, device, mac));
        connection.joined.push(Joined {
            name: link.name.clone(),
            index: link.index,
            mac,
        });
    }
    keep_what_leads_to_the_guest(&mut lease, scan);
    lease.phases.push(Phase::ended("taps and filters", began));
    Ok(lease)
}

/// Forgets links that are gone, with what was made beside them.
fn let_go(rtnl: &mut Rtnl, scan: &Scan, joined: &mut Vec<Joined>) -> Result<Vec<String>> {
    let is_there = |known: &Joined| scan.links.iter().any(|link| known.is(link));
    let mut gone = Vec::new();
    for known in joined.extract_if(.., |known| !is_there(known)) {
        wiring::remove_beside(rtnl, &scan.links, known.index)?;
        gone.push(known.name);
    }
    Ok(gone)
}

/// Takes over routes, rules and neighbours, but for those of links that are
/// none of the guest's.
fn keep_what_leads_to_the_guest(lease: &mut Lease, scan: Scan) {
    let interfaces = &lease.interfaces;
    let in_guest = |name: &str| interfaces.iter().any(|known| known.name == name);
    lease.routes = scan.routes;
    lease.routes.retain(|route| {
        let hops = route.next_hops.iter().map(|hop| hop.interface.as_str());
        let mut named = hops.chain(Some(route.interface.as_str()));
        named.all(|name| name.is_empty() || in_guest(name))
    });
    lease.rules = scan.rules;
    lease.neighbors = scan.neighbors;
    lease
        .neighbors
        .retain(|neighbor| in_guest(&neighbor.interface));
}

/// The device that a link is, if it is one of hardware.
fn host_device(link: &Link) -> Option<HostDevice> {
    let (bus, address) = link.hardware.as_ref().filter(|_| link.kind.is_empty())?;
    let mut device = HostDevice::new(bus, address, &link.name);
    device.pci = PciFunction::of(Path::new(SYSFS), bus, address);
    Some(device)
}

/// Whether the guest gets that link.
fn is_wanted(scan: &Scan, link: &Link) -> bool {
    let unused = !link.up && scan.addresses_of(link.index).is_empty();
    // A port's packets belong to its bridge or bond.
    let is_port = link.controller.is_some();
    let fallback = FALLBACKS.contains(&link.kind.as_str());
    !(link.loopback || is_port || wiring::is_ours(link) || unused && (fallback || !is_tap(link)))
}

fn is_tap(link: &Link) -> bool {
    ["tun", "macvtap", "ipvtap"].contains(&link.kind.as_str())
}

fn hardware_address(link: &Link) -> Result<MacAddress> {
    link.mac
        .filter(|_| link.ethernet)
        .ok_or_else(|| Error::Interface {
            interface: link.name.clone(),
            kind: link.kind.clone(),
            reason: "it carries no Ethernet frames".to_owned(),
        })
}

fn attach(rtnl: &mut Rtnl, options: &Options, link: &Link, queues: usize) -> Result<Attachment> {
    let model = options.wiring_of(&link.name);
    match (host_device(link), model) {
        (Some(device), WiringModel::Auto) => Ok(Attachment::Device(device)),
        _ => model.of(link).connect(rtnl, link, queues),
    }
}

/// The link as the guest has it, on the device of the address `device`.
fn describe(scan: &Scan, link: &Link, device: MacAddress, mac: MacAddress) -> GuestInterface {
    let mut interface = GuestInterface::new(&link.name, device, link.mtu);
    interface.new_mac = (device != mac).then_some(mac);
    interface.addresses = scan.addresses_of(link.index);
    interface.no_arp = link.no_arp;
    interface
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_no_device_of_the_host() {
        let hardware = Some(("pci".to_owned(), "0000:ff:1f.7".to_owned()));
        let name = "eth1".to_owned();
        let mut link = Link {
            name,
            hardware,
            ..Link::default()
        };
        let device = host_device(&link).unwrap();
        assert_eq!(
            (device.bus.as_str(), device.interface.as_str()),
            ("pci", "eth1")
        );
        assert_eq!(device.pci, None, "there is no such device");
        // A macvlan may name its parent's.
        link.kind = "macvlan".to_owned();
        assert_eq!(host_device(&link), None);
        link = Link::default();
        assert_eq!(host_device(&link), None);
    }
}
