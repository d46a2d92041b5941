//! The sandbox's network, configured by calls.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod support;

use std::process::Command;

use kata_protocol::agent::{
    AddArpNeighborsRequest, ArpNeighbors, CreateSandboxRequest, ListInterfacesRequest,
    ListRoutesRequest, Network, Routes, UpdateInterfaceRequest, UpdateRoutesRequest,
};
use kata_protocol::ttrpc::Code;
use kata_protocol::types::{ArpNeighbor, Interface, IpAddress, IpFamily, NextHop, Route, Rule};
use support::{Agent, DEADLINE, able};

const MAC: &str = "52:54:00:aa:bb:01";
const VETH: &str =
    "ip link add near address 52:54:00:aa:bb:01 type veth peer name far; ip link set far up";

fn address(family: IpFamily, address: &str, mask: &str) -> IpAddress {
    IpAddress {
        family: family as i32,
        address: address.into(),
        mask: mask.into(),
    }
}

fn wanted() -> Interface {
    Interface {
        device: "eth0".into(),
        name: "eth0".into(),
        hw_addr: MAC.into(),
        mtu: 1400,
        ip_addresses: vec![
            address(IpFamily::V4, "192.0.2.2", "24"),
            address(IpFamily::V6, "2001:db8::2", "64"),
        ],
        ..Interface::default()
    }
}

async fn update(agent: &Agent, interface: Interface) -> Result<Interface, Option<Code>> {
    let request = UpdateInterfaceRequest {
        interface: Some(interface),
    };
    agent
        .service
        .update_interface(&request, DEADLINE)
        .await
        .map_err(|error| error.code())
}

async fn update_routes(agent: &Agent, routes: Vec<Route>) -> Result<Vec<Route>, String> {
    let request = UpdateRoutesRequest {
        routes: Some(Routes { routes }),
        ..UpdateRoutesRequest::default()
    };
    let updated = agent.service.update_routes(&request, DEADLINE).await;
    updated
        .map(|updated| updated.routes)
        .map_err(|error| error.to_string())
}

fn in_network(agent: &Agent, command: &str) -> String {
    let pid = agent.process.id().to_string();
    let output = Command::new("nsenter")
        .args(["-t", &pid, "-n", "sh", "-c", command])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn an_interface_gets_its_name_and_addresses_of_both_families() {
    if !able() {
        return;
    }
    let agent = Agent::start(VETH).await;
    assert_eq!(update(&agent, wanted()).await.unwrap().name, "eth0");
    let mut moved = wanted();
    moved.ip_addresses.remove(0);
    moved
        .ip_addresses
        .push(address(IpFamily::V4, "198.51.100.2", "255.255.255.0"));
    update(&agent, moved).await.unwrap();

    let listed = agent
        .service
        .list_interfaces(&ListInterfacesRequest {}, DEADLINE)
        .await
        .unwrap();
    let eth0 = listed
        .interfaces
        .iter()
        .find(|interface| interface.name == "eth0")
        .unwrap();
    assert_eq!(eth0.hw_addr, MAC);
    assert_eq!(eth0.mtu, 1400);
    assert_eq!(eth0.r#type, "veth");
    assert!(eth0.raw_flags & 1 != 0, "it is not up");
    let has = |address: &str, mask: &str| {
        eth0.ip_addresses
            .iter()
            .any(|a| a.address == address && a.mask == mask)
    };
    assert!(has("198.51.100.2", "24") && has("2001:db8::2", "64"));
    assert!(!has("192.0.2.2", "24"), "the old address stayed");
    let tentative = in_network(&agent, "ip -6 address show dev eth0 scope global tentative");
    assert_eq!(tentative, "", "the address waits for duplicate detection");
    agent.destroy().await;
}

#[tokio::test]
async fn a_name_that_is_taken_is_freed() {
    if !able() {
        return;
    }
    let agent = Agent::start(&format!("{VETH}; ip link set far name eth0")).await;
    update(&agent, wanted()).await.unwrap();
    let listed = agent
        .service
        .list_interfaces(&ListInterfacesRequest {}, DEADLINE)
        .await
        .unwrap();
    let eth0 = listed
        .interfaces
        .iter()
        .find(|interface| interface.name == "eth0")
        .unwrap();
    assert_eq!(eth0.hw_addr, MAC);
    assert!(
        listed
            .interfaces
            .iter()
            .any(|interface| interface.name.starts_with("moved"))
    );
    agent.destroy().await;
}

#[tokio::test]
async fn an_interface_that_appears_later_is_waited_for() {
    if !able() {
        return;
    }
    let agent = Agent::start("").await;
    let request = UpdateInterfaceRequest {
        interface: Some(wanted()),
    };
    let service = agent.service.clone();
    let waiting = tokio::spawn(async move { service.update_interface(&request, DEADLINE).await });
    tokio::task::yield_now().await;
    in_network(&agent, VETH);
    assert_eq!(waiting.await.unwrap().unwrap().name, "eth0");
    agent.destroy().await;
}

#[tokio::test]
async fn an_interface_that_never_comes_is_not_found() {
    if !able() {
        return;
    }
    let agent = Agent::start("").await;
    assert_eq!(
        update(&agent, wanted()).await.unwrap_err(),
        Some(Code::NotFound)
    );
    let nonsense = Interface {
        hw_addr: "here".into(),
        ..wanted()
    };
    assert_eq!(
        update(&agent, nonsense).await.unwrap_err(),
        Some(Code::InvalidArgument)
    );
    agent.destroy().await;
}

#[tokio::test]
async fn routes_are_replaced_in_both_families() {
    if !able() {
        return;
    }
    let agent = Agent::start(VETH).await;
    update(&agent, wanted()).await.unwrap();
    let old = Route {
        dest: "203.0.113.0/24".into(),
        device: "eth0".into(),
        ..Route::default()
    };
    update_routes(&agent, vec![old]).await.unwrap();
    let v4 = Route {
        gateway: "192.0.2.1".into(),
        device: "eth0".into(),
        source: "192.0.2.2".into(),
        mtu: 1300,
        ..Route::default()
    };
    // The gateway is not in the interface's network.
    let on_link = Route {
        dest: "198.51.100.0/24".into(),
        gateway: "203.0.113.1".into(),
        device: "eth0".into(),
        flags: 4,
        ..Route::default()
    };
    let v6 = Route {
        dest: "::/0".into(),
        gateway: "2001:db8::1".into(),
        device: "eth0".into(),
        family: IpFamily::V6 as i32,
        ..Route::default()
    };
    update_routes(&agent, vec![v4.clone(), on_link.clone(), v6])
        .await
        .unwrap();

    let listed = agent
        .service
        .list_routes(&ListRoutesRequest {}, DEADLINE)
        .await
        .unwrap()
        .routes;
    let find = |dest: &str, gateway: &str| {
        listed
            .iter()
            .find(|route| route.dest == dest && route.gateway == gateway)
    };
    let default = find("", "192.0.2.1").unwrap();
    assert_eq!((default.mtu, default.source.as_str()), (1300, "192.0.2.2"));
    assert_eq!(find("198.51.100.0/24", "203.0.113.1").unwrap().flags, 4);
    assert_eq!(find("", "2001:db8::1").unwrap().family, IpFamily::V6 as i32);
    assert!(find("203.0.113.0/24", "").is_none(), "the old route stayed");
    assert!(
        find("192.0.2.0/24", "").is_some(),
        "the address's own route went"
    );
    agent.destroy().await;
}

#[tokio::test]
async fn a_route_that_cannot_be_made_puts_the_old_ones_back() {
    if !able() {
        return;
    }
    let agent = Agent::start(VETH).await;
    update(&agent, wanted()).await.unwrap();
    let old = Route {
        dest: "203.0.113.0/24".into(),
        device: "eth0".into(),
        ..Route::default()
    };
    update_routes(&agent, vec![old]).await.unwrap();
    let unreachable = Route {
        dest: "198.51.100.0/24".into(),
        gateway: "10.9.9.9".into(),
        device: "eth0".into(),
        ..Route::default()
    };
    let error = update_routes(&agent, vec![unreachable]).await.unwrap_err();
    assert!(error.contains("198.51.100.0/24"), "{error}");
    let listed = agent
        .service
        .list_routes(&ListRoutesRequest {}, DEADLINE)
        .await
        .unwrap()
        .routes;
    assert!(listed.iter().any(|route| route.dest == "203.0.113.0/24"));
    agent.destroy().await;
}

#[tokio::test]
async fn neighbours_of_both_families_are_permanent() {
    if !able() {
        return;
    }
    let agent = Agent::start(VETH).await;
    update(&agent, wanted()).await.unwrap();
    let neighbor = |family, to: &str| ArpNeighbor {
        to_ip_address: Some(address(family, to, "")),
        device: "eth0".into(),
        lladdr: "52:54:00:aa:bb:99".into(),
        ..ArpNeighbor::default()
    };
    let arp_neighbors = vec![
        neighbor(IpFamily::V4, "192.0.2.9"),
        neighbor(IpFamily::V6, "2001:db8::9"),
    ];
    let request = AddArpNeighborsRequest {
        neighbors: Some(ArpNeighbors { arp_neighbors }),
    };
    agent
        .service
        .add_arp_neighbors(&request, DEADLINE)
        .await
        .unwrap();
    let listed = in_network(&agent, "ip neighbor show nud permanent");
    assert!(
        listed.contains("192.0.2.9 ") && listed.contains("2001:db8::9 "),
        "{listed}"
    );
    agent.destroy().await;
}

#[tokio::test]
async fn the_network_comes_with_the_sandbox_and_nothing_of_it_is_lost() {
    if !able() {
        return;
    }
    let agent = Agent::start(VETH).await;
    let route = |dest: &str| Route {
        dest: dest.into(),
        device: "eth0".into(),
        ..Route::default()
    };
    let hop = |gateway: &str, weight| NextHop {
        gateway: gateway.into(),
        device: "eth0".into(),
        weight,
        flags: 0,
    };
    let routes = vec![
        Route {
            gateway: "192.0.2.1".into(),
            metric: Some(7),
            ..route("198.51.100.0/24")
        },
        Route {
            gateway: "192.0.2.9".into(),
            metric: Some(8),
            ..route("198.51.100.0/24")
        },
        Route {
            table: 1077,
            scope: 253,
            protocol: 4,
            ..route("203.0.113.0/24")
        },
        Route {
            next_hops: vec![hop("192.0.2.8", 3), hop("2001:db8::9", 1)],
            ..route("10.0.0.0/8")
        },
        Route {
            family: IpFamily::V6 as i32,
            next_hops: vec![hop("2001:db8::8", 1), hop("2001:db8::9", 2)],
            ..route("2001:db8:1::/48")
        },
        Route {
            kind: 7,
            device: String::new(),
            ..route("10.9.0.0/16")
        },
    ];
    let rules = vec![Rule {
        priority: 100,
        table: 1077,
        source: "192.0.2.2/32".into(),
        mark: Some(5),
        mask: 0xff,
        ..Rule::default()
    }];
    let neighbors = vec![ArpNeighbor {
        to_ip_address: Some(address(IpFamily::V4, "192.0.2.9", "")),
        device: "eth0".into(),
        lladdr: "52:54:00:aa:bb:99".into(),
        ..ArpNeighbor::default()
    }];
    let mut interface = wanted();
    interface.new_hw_addr = "52:54:00:aa:bb:77".into();
    let request = CreateSandboxRequest {
        sandbox_id: "s".into(),
        network: Some(Network {
            interfaces: vec![interface],
            routes,
            rules,
            neighbors,
        }),
        ..CreateSandboxRequest::default()
    };
    agent
        .service
        .create_sandbox(&request, DEADLINE)
        .await
        .unwrap();
    let seen = in_network(
        &agent,
        "ip link show eth0; ip route show table all; ip -6 route; ip rule; ip neighbor",
    );
    for part in [
        "52:54:00:aa:bb:77",
        "198.51.100.0/24 via 192.0.2.1 dev eth0 metric 7",
        "198.51.100.0/24 via 192.0.2.9 dev eth0 metric 8",
        "203.0.113.0/24 dev eth0 table 1077 proto static scope link",
        "nexthop via 192.0.2.8 dev eth0 weight 3",
        "nexthop via inet6 2001:db8::9 dev eth0 weight 1",
        "nexthop via 2001:db8::9 dev eth0 weight 2",
        "unreachable 10.9.0.0/16",
        "100:\tfrom 192.0.2.2 fwmark 0x5/0xff lookup 1077",
        "192.0.2.9 dev eth0 lladdr 52:54:00:aa:bb:99 PERMANENT",
    ] {
        assert!(seen.contains(part), "{part} is not in\n{seen}");
    }
    // All of them are replaced when others are wanted.
    update_routes(&agent, vec![route("10.1.0.0/16")])
        .await
        .unwrap();
    let seen = in_network(&agent, "ip route show table all; ip -6 route");
    assert!(
        !seen.contains("table 1077") && !seen.contains("unreachable"),
        "{seen}"
    );
    agent.destroy().await;
}
