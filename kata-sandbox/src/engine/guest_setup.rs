//! What the guest is told once, before its first container.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use kata_network::{GuestInterface, IpNet, Lease, Neighbor, Route};
use kata_protocol::agent::{
    AddArpNeighborsRequest, ArpNeighbors, CreateSandboxRequest, Routes, SetGuestDateTimeRequest,
    Storage, UpdateInterfaceRequest, UpdateRoutesRequest,
};
use kata_protocol::ttrpc::CallError;
use kata_protocol::types;

use super::agent::Agent;
use super::blueprint::{Blueprint, SHARE_TAG};

/// Where the guest has what is shared with it.
pub(crate) const SHARED: &str = "/run/kata-containers/shared/containers";
/// Where the guest has the memory that the sandbox's containers share.
pub(crate) const SHM: &str = "/run/kata-containers/sandbox/shm";

/// Tells the guest all of it, what does not depend on each other at once.
pub(super) async fn run(
    agent: &Agent,
    blueprint: &Blueprint,
    lease: &Lease,
) -> Result<(), CallError> {
    let sandbox = sandbox(blueprint, lease);
    let calls = agent.calls();
    tokio::try_join!(
        calls.create_sandbox(&sandbox, agent.deadline()),
        set_clock(agent),
        configure_network(agent, lease),
    )?;
    Ok(())
}

fn sandbox(blueprint: &Blueprint, lease: &Lease) -> CreateSandboxRequest {
    let servers = lease.name_servers.iter().map(ToString::to_string);
    let servers = blueprint.name_servers.iter().cloned().chain(servers);
    CreateSandboxRequest {
        hostname: blueprint.guest_hostname(),
        dns: servers
            .map(|server| format!("nameserver {server}"))
            .chain(resolver_line("search", &lease.search_domains))
            .chain(resolver_line("options", &lease.resolver_options))
            .collect(),
        storages: vec![
            Storage {
                driver: "virtio-fs".into(),
                source: SHARE_TAG.into(),
                fstype: "virtiofs".into(),
                mount_point: SHARED.into(),
                ..Storage::default()
            },
            Storage {
                driver: "ephemeral".into(),
                source: "shm".into(),
                fstype: "tmpfs".into(),
                options: ["noexec", "nosuid", "nodev", "mode=1777"]
                    .map(str::to_owned)
                    .into(),
                mount_point: SHM.into(),
                ..Storage::default()
            },
        ],
        sandbox_pidns: blueprint.shared_process_ids,
        sandbox_id: blueprint.id.clone(),
        ..CreateSandboxRequest::default()
    }
}

/// A line of `resolv.conf(5)` with several words, if there are any.
fn resolver_line(keyword: &str, words: &[String]) -> Option<String> {
    (!words.is_empty()).then(|| format!("{keyword} {}", words.join(" ")))
}

/// A guest without a clock of its own would begin in 1970, or where its image
/// was made.
async fn set_clock(agent: &Agent) -> Result<(), CallError> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let request = SetGuestDateTimeRequest {
        sec: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        usec: now.subsec_micros().into(),
    };
    agent
        .calls()
        .set_guest_date_time(&request, agent.deadline())
        .await
}

async fn configure_network(agent: &Agent, lease: &Lease) -> Result<(), CallError> {
    let (calls, deadline) = (agent.calls(), agent.deadline());
    for wanted in &lease.interfaces {
        let request = UpdateInterfaceRequest {
            interface: Some(interface(wanted)),
        };
        calls.update_interface(&request, deadline).await?;
    }
    if !lease.routes.is_empty() {
        let routes = Routes {
            routes: lease.routes.iter().map(route).collect(),
        };
        calls
            .update_routes(
                &UpdateRoutesRequest {
                    routes: Some(routes),
                },
                deadline,
            )
            .await?;
    }
    if !lease.neighbors.is_empty() {
        let known = ArpNeighbors {
            arp_neighbors: lease.neighbors.iter().map(neighbor).collect(),
        };
        let request = AddArpNeighborsRequest {
            neighbors: Some(known),
        };
        calls.add_arp_neighbors(&request, deadline).await?;
    }
    Ok(())
}

fn interface(wanted: &GuestInterface) -> types::Interface {
    types::Interface {
        device: wanted.name.clone(),
        name: wanted.name.clone(),
        ip_addresses: wanted.addresses.iter().map(|net| address(*net)).collect(),
        mtu: wanted.mtu.into(),
        hw_addr: wanted.mac.to_string(),
        ..types::Interface::default()
    }
}

fn family(address: IpAddr) -> i32 {
    let family = if address.is_ipv4() {
        types::IpFamily::V4
    } else {
        types::IpFamily::V6
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
    let an_address = route
        .destination
        .map(IpNet::address)
        .or(route.gateway)
        .or(route.source);
    types::Route {
        dest: route
            .destination
            .map(|net| net.to_string())
            .unwrap_or_default(),
        gateway: route
            .gateway
            .map(|gateway| gateway.to_string())
            .unwrap_or_default(),
        device: route.interface.clone(),
        source: route
            .source
            .map(|source| source.to_string())
            .unwrap_or_default(),
        // On the link, unless there is a next hop.
        scope: if route.gateway.is_some() {
            0
        } else {
            LINK_SCOPE
        },
        family: an_address.map(family).unwrap_or_default(),
        flags: 0,
        mtu: route.mtu.unwrap_or_default(),
    }
}

/// `RT_SCOPE_LINK` of `linux/rtnetlink.h`.
const LINK_SCOPE: u32 = 253;
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
        let sent = route(&Route::to("fe80::/64".parse().unwrap(), "eth0"));
        assert_eq!(
            (sent.scope, sent.family),
            (LINK_SCOPE, i32::from(types::IpFamily::V6))
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
}
