//! The network, as the guest is told of it.

use std::net::IpAddr;

use kata_network::{GuestInterface, IpNet, Lease, Neighbor, NextHop, Route, RouteKind, Rule};
use kata_protocol::agent::{
    AddArpNeighborsRequest, ArpNeighbors, Network, Routes, UpdateInterfaceRequest,
    UpdateRoutesRequest,
};
use kata_protocol::ttrpc::CallError;
use kata_protocol::types;

use super::agent::Agent;

/// All of it in one message.
pub(super) fn whole(lease: &Lease) -> Network {
    Network {
        interfaces: lease.interfaces.iter().map(interface).collect(),
        routes: lease.routes.iter().map(route).collect(),
        rules: lease.rules.iter().map(rule).collect(),
        neighbors: lease.neighbors.iter().map(neighbor).collect(),
    }
}

/// All of it in calls, each of which stands on those before.
pub(super) async fn by_calls(agent: &Agent, lease: &Lease) -> Result<(), CallError> {
    for wanted in &lease.interfaces {
        tell_interface(agent, wanted).await?;
    }
    if !lease.routes.is_empty() || !lease.rules.is_empty() {
        tell_routes(agent, &lease.routes, &lease.rules).await?;
    }
    tell_neighbors(agent, &lease.neighbors).await
}

/// Has an interface configured: one that is being plugged in is waited for.
pub(super) async fn tell_interface(
    agent: &Agent,
    wanted: &GuestInterface,
) -> Result<(), CallError> {
    let request = UpdateInterfaceRequest {
        interface: Some(interface(wanted)),
    };
    let call = agent.calls().update_interface(&request, agent.deadline());
    call.await.map(drop)
}

/// Has all routes and rules made these.
pub(super) async fn tell_routes(
    agent: &Agent,
    routes: &[Route],
    rules: &[Rule],
) -> Result<(), CallError> {
    let request = UpdateRoutesRequest {
        routes: Some(Routes {
            routes: routes.iter().map(route).collect(),
        }),
        rules: rules.iter().map(rule).collect(),
    };
    let call = agent.calls().update_routes(&request, agent.deadline());
    call.await.map(drop)
}

/// Has neighbours made known.
pub(super) async fn tell_neighbors(agent: &Agent, neighbors: &[Neighbor]) -> Result<(), CallError> {
    if neighbors.is_empty() {
        return Ok(());
    }
    let known = ArpNeighbors {
        arp_neighbors: neighbors.iter().map(neighbor).collect(),
    };
    let request = AddArpNeighborsRequest {
        neighbors: Some(known),
    };
    let call = agent.calls().add_arp_neighbors(&request, agent.deadline());
    call.await.map(drop)
}

fn interface(wanted: &GuestInterface) -> types::Interface {
    types::Interface {
        device: wanted.name.clone(),
        name: wanted.name.clone(),
        ip_addresses: wanted.addresses.iter().map(|net| address(*net)).collect(),
        mtu: wanted.mtu.into(),
        hw_addr: wanted.mac.to_string(),
        new_hw_addr: wanted
            .new_mac
            .map(|mac| mac.to_string())
            .unwrap_or_default(),
        raw_flags: if wanted.no_arp { NO_ARP } else { 0 },
        ..types::Interface::default()
    }
}

fn family(address: IpAddr) -> i32 {
    family_of(address.is_ipv6())
}

fn family_of(v6: bool) -> i32 {
    let family = if v6 {
        types::IpFamily::V6
    } else {
        types::IpFamily::V4
    };
    family.into()
}

fn address(net: IpNet) -> types::IpAddress {
    types::IpAddress {
        family: family(net.address()),
        address: net.address().to_string(),
        mask: net.prefix().to_string(),
    }
}

fn route(route: &Route) -> types::Route {
    let v6 = route.is_ipv6();
    let text = |address: Option<IpAddr>| address.map(|it| it.to_string()).unwrap_or_default();
    let everything = |net: &IpNet| net.prefix() == 0 && net.address().is_unspecified();
    let destination = route.destination.filter(|net| !everything(net));
    let on_link = |set| if set { ON_LINK } else { 0 };
    // A gateway of the other family can only be said of one of several.
    let foreign = route.gateway.filter(|gateway| gateway.is_ipv6() != v6);
    let alone = foreign.map(|gateway| {
        let mut hop = NextHop::new(Some(gateway), &*route.interface);
        hop.on_link = route.on_link;
        hop
    });
    let hops = route.next_hops.iter().chain(&alone);
    let next_hops: Vec<types::NextHop> = hops
        .map(|hop| types::NextHop {
            gateway: text(hop.gateway),
            device: hop.interface.clone(),
            weight: hop.weight.into(),
            flags: on_link(hop.on_link),
        })
        .collect();
    let unicast = route.kind == RouteKind::Unicast;
    // On the link, unless there is a next hop.
    let far = route.gateway.is_some() || !next_hops.is_empty() || !unicast;
    let scope = route
        .scope
        .map_or(if far { 0 } else { LINK_SCOPE }, u32::from);
    types::Route {
        dest: destination.map(|net| net.to_string()).unwrap_or_default(),
        gateway: text(route.gateway.filter(|_| foreign.is_none())),
        device: route.interface.clone(),
        source: text(route.source),
        scope: if v6 { 0 } else { scope },
        family: family_of(v6),
        flags: on_link(route.on_link && foreign.is_none()),
        mtu: route.mtu.unwrap_or_default(),
        kind: if unicast {
            0
        } else {
            route.kind.number().into()
        },
        table: route.table.unwrap_or_default(),
        metric: route.metric,
        protocol: route.protocol.unwrap_or_default().into(),
        next_hops,
    }
}

fn rule(rule: &Rule) -> types::Rule {
    let net = |net: Option<IpNet>| net.map(|net| net.to_string()).unwrap_or_default();
    types::Rule {
        family: family_of(rule.ipv6),
        priority: rule.priority,
        table: rule.table.unwrap_or_default(),
        source: net(rule.source),
        destination: net(rule.destination),
        input: rule.input.clone().unwrap_or_default(),
        output: rule.output.clone().unwrap_or_default(),
        mark: rule.mark.map(|(mark, _)| mark),
        mask: rule.mark.map(|(_, mask)| mask).unwrap_or_default(),
        suppress_prefix: rule.suppress_prefix,
        refuse: rule
            .refuse
            .map(|kind| kind.number().into())
            .unwrap_or_default(),
        invert: rule.invert,
    }
}

/// `RT_SCOPE_LINK` of `linux/rtnetlink.h`.
const LINK_SCOPE: u32 = 253;
/// `RTNH_F_ONLINK` of `linux/rtnetlink.h`.
const ON_LINK: u32 = 4;
/// `IFF_NOARP` of `linux/if.h`.
const NO_ARP: u32 = 0x80;
/// `NUD_PERMANENT` of `linux/neighbour.h`.
const PERMANENT: i32 = 0x80;

fn neighbor(neighbor: &Neighbor) -> types::ArpNeighbor {
    types::ArpNeighbor {
        to_ip_address: Some(types::IpAddress {
            family: family(neighbor.address),
            address: neighbor.address.to_string(),
            mask: String::new(),
        }),
        device: neighbor.interface.clone(),
        lladdr: neighbor.mac.to_string(),
        state: PERMANENT,
        flags: 0,
    }
}

#[cfg(test)]
mod tests {
    use kata_network::MacAddress;

    use super::*;

    #[test]
    fn an_interface_goes_to_the_guest_with_its_addresses() {
        let mac = MacAddress::new([2, 0, 0, 0, 0, 1]);
        let wanted = GuestInterface::new("eth0", mac, 1500)
            .address("10.0.0.2/24".parse().unwrap())
            .address("fe80::2/64".parse().unwrap());
        let sent = interface(&wanted);
        assert_eq!((sent.name.as_str(), sent.mtu), ("eth0", 1500));
        assert_eq!(sent.hw_addr, "02:00:00:00:00:01");
        assert_eq!(sent.ip_addresses[0].mask, "24");
        assert_eq!(sent.ip_addresses[1].family, i32::from(types::IpFamily::V6));
    }

    #[test]
    fn a_default_route_has_no_destination_and_a_next_hop() {
        let mut default = Route::default_through("10.0.0.1".parse().unwrap(), "eth0");
        default.mtu = Some(1400);
        let sent = route(&default);
        assert_eq!(
            (sent.dest.as_str(), sent.gateway.as_str()),
            ("", "10.0.0.1")
        );
        assert_eq!((sent.scope, sent.mtu), (0, 1400));
        let sent = route(&Route::to("10.0.0.0/8".parse().unwrap(), "eth0"));
        assert_eq!(sent.scope, LINK_SCOPE);
        let sent = route(&Route::to("fe80::/64".parse().unwrap(), "eth0"));
        assert_eq!(
            (sent.scope, sent.family),
            (0, i32::from(types::IpFamily::V6)),
            "routes of the sixth version have no scope"
        );
    }

    #[test]
    fn a_neighbour_is_permanent() {
        let mac = MacAddress::new([2, 0, 0, 0, 0, 9]);
        let known = Neighbor::new("10.0.0.1".parse().unwrap(), mac, "eth0");
        let sent = neighbor(&known);
        assert_eq!(
            (sent.state, sent.lladdr.as_str()),
            (PERMANENT, "02:00:00:00:00:09")
        );
    }

    #[test]
    fn a_gateway_of_the_other_family_goes_as_the_only_next_hop() {
        let to = Route::to("10.0.0.0/8".parse().unwrap(), "eth0");
        let sent = route(&to.through("fd00::1".parse().unwrap()));
        assert_eq!((sent.gateway.as_str(), sent.family), ("", 0));
        assert_eq!(sent.next_hops[0].gateway, "fd00::1");
    }

    #[test]
    fn everything_that_a_route_says_is_sent() {
        let mut full = Route::to("10.0.0.0/8".parse().unwrap(), "");
        full.kind = RouteKind::Blackhole;
        full.table = Some(77);
        full.metric = Some(0);
        full.protocol = Some(4);
        let sent = route(&full);
        assert_eq!((sent.kind, sent.table, sent.metric), (6, 77, Some(0)));
        assert_eq!((sent.protocol, sent.scope), (4, 0));
    }

    #[test]
    fn a_mark_goes_with_its_mask() {
        let mut marked = Rule::default();
        marked.ipv6 = true;
        marked.mark = Some((5, 0xff));
        let sent = rule(&marked);
        assert_eq!((sent.mark, sent.mask, sent.family), (Some(5), 0xff, 1));
    }
}
