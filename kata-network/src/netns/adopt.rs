//! From a network namespace to a lease.

use super::options::Options;
use crate::address::IpNet;
use crate::endpoint::{Attachment, Endpoint, HostDevice};
use crate::error::{Error, Result};
use crate::guest::GuestInterface;
use crate::lease::Lease;
use crate::rtnl::{Link, Rtnl};
use crate::scan::Scan;
use crate::wiring;

/// Kinds of links that every new namespace has where the host's kernel has the
/// protocol: nobody set them up.
const FALLBACKS: [&str; 9] = [
    "ipip", "gre", "gretap", "erspan", "sit", "ip6tnl", "ip6gre", "vti", "vti6",
];

/// Connects what is in the calling thread's namespace, but for the interfaces
/// of those names, which are connected already.
pub(super) fn adopt(options: &Options, queues: usize, known: &[String]) -> Result<Lease> {
    let failed = |what: &'static str| Error::host(what);
    let mut rtnl = Rtnl::open().map_err(failed("talk to the kernel's routing"))?;
    let scan = Scan::take(&mut rtnl).map_err(failed("list what is in the network namespace"))?;
    let mut lease = Lease::new();
    for link in scan.links.iter().filter(|link| is_wanted(&scan, link)) {
        if known.contains(&link.name) {
            continue;
        }
        let (endpoint, interface) = connect(&mut rtnl, options, &scan, link, queues)?;
        lease.endpoints.push(endpoint);
        lease.interfaces.push(interface);
    }
    let in_guest = |name: &str| {
        known.iter().any(|known| known == name)
            || lease.interfaces.iter().any(|known| known.name == name)
    };
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
    Ok(lease)
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

fn connect(
    rtnl: &mut Rtnl,
    options: &Options,
    scan: &Scan,
    link: &Link,
    queues: usize,
) -> Result<(Endpoint, GuestInterface)> {
    let mac = link.mac.filter(|_| link.ethernet);
    let mac = mac.ok_or_else(|| Error::Interface {
        interface: link.name.clone(),
        kind: link.kind.clone(),
        reason: "it carries no Ethernet frames".to_owned(),
    })?;
    let attachment = match &link.hardware {
        Some((bus, address)) if link.kind.is_empty() => {
            Attachment::Device(HostDevice::new(bus, address, &link.name))
        }
        _ => {
            let model = options.wiring_of(&link.name);
            model.of(link).connect(rtnl, link, queues)?
        }
    };
    let addresses: Vec<IpNet> = scan.addresses_of(link.index);
    let mut interface = GuestInterface::new(&link.name, mac, link.mtu);
    interface.addresses = addresses;
    interface.no_arp = link.no_arp;
    Ok((Endpoint::new(attachment, mac, link.mtu), interface))
}
