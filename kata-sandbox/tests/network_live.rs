//! Networks that change while a sandbox runs, with real guests.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod common;

use std::time::Duration;

use common::network::{on_its_own, prepare, run};
use common::{Host, sh, text};
use kata_sandbox::network::{
    BridgePort, GuestConfig, NetNs, NextHop, Rate, RateLimits, Route, RouteKind, Rule,
};
use kata_sandbox::{Container, ErrorKind, MemorySize, Runtime, Sandbox};

async fn start(runtime: &Runtime, network: NetNs, spare: u32) -> Sandbox {
    let builder = runtime.sandbox("s").memory(MemorySize::mib(128));
    let started = builder
        .network(network)
        .spare_interfaces(spare)
        .boot_timeout(Duration::from_secs(180))
        .start()
        .await;
    started.unwrap_or_else(|error| panic!("{error:#}"))
}

async fn shown(container: &Container, script: &str) -> String {
    text(&sh(container, script).await.stdout)
}

async fn reaches(container: &Container, address: &str) {
    let output = sh(container, &format!("ping -c 1 -W 30 {address}")).await;
    assert!(output.exit.success(), "{address}: {}", text(&output.stdout));
}

/// Taps, namespaces and disciplines that there are.
fn look() -> String {
    run(
        "ip -o link show type tun; ip netns; tc qdisc show; tc -n a qdisc show; ip -n a -o link | grep -c .",
    )
}

#[tokio::test]
async fn networks_come_and_go_while_a_sandbox_runs() {
    if !on_its_own("networks_come_and_go_while_a_sandbox_runs") {
        return;
    }
    let Some(host) = Host::new() else { return };
    prepare("a", 2);
    prepare("b", 3);
    let before = look();
    let runtime = host.runtime();
    let sandbox = start(&runtime, NetNs::new("/run/netns/a"), 1).await;
    assert!(sandbox.features().nics);
    let container = host.sleeper(&sandbox, "c").await;
    reaches(&container, "10.88.0.1").await;

    // A network more, whose interface is called what another is.
    run("ip link add br1 type bridge; ip addr add 10.99.0.1/24 dev br1; ip link set br1 up");
    let mac = "02:00:00:00:00:99".parse().unwrap();
    let port = GuestConfig::new(mac).address("10.99.0.2/24".parse().unwrap());
    let port = BridgePort::new("br1", port);
    let added = sandbox.add_network("more", port.clone()).await.unwrap();
    assert_eq!(added[0].name, "eth1");
    reaches(&container, "10.99.0.1").await;
    reaches(&container, "10.88.0.1").await;
    let twice = sandbox.add_network("more", port.clone()).await.unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
    let full = sandbox
        .add_network("third", NetNs::new("/run/netns/b"))
        .await;
    let full = full.unwrap_err();
    assert!(format!("{full:#}").contains("in use"), "{full:#}");

    // Counted from both sides, and limited.
    let stats = sandbox.stats().await.unwrap();
    assert_eq!(stats.interfaces.len(), 2);
    for interface in &stats.interfaces {
        let (guest, host) = (
            interface.guest.as_ref().unwrap(),
            interface.host.as_ref().unwrap(),
        );
        assert!(
            guest.received_packets > 0 && host.sent_packets > 0,
            "{interface:?}"
        );
    }
    let slow = RateLimits::none().receive(Rate::bits_per_second(1_000_000).burst(20_000));
    sandbox.limit_interface("eth1", slow).await.unwrap();
    assert!(run("tc qdisc show").contains("rate 1Mbit"));
    let sends = RateLimits::none().send(Rate::bits_per_second(1_000_000));
    let refused = sandbox.limit_interface("eth1", sends).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    sandbox.limit_interface("eth0", sends).await.unwrap();
    assert!(run("tc -n a qdisc show").contains("rate 1Mbit"));
    let nobody = sandbox.limit_interface("eth9", sends).await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::NotFound);

    // It goes, and comes again.
    sandbox.remove_network("more").await.unwrap();
    assert!(!shown(&container, "ip -o link").await.contains("eth1"));
    assert_eq!(run("ip -o link show master br1"), "");
    let gone = sandbox.remove_network("more").await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    sandbox.add_network("again", port).await.unwrap();
    reaches(&container, "10.99.0.1").await;
    sandbox.stop(Duration::ZERO).await.unwrap();
    run("ip link del br1");
    assert_eq!(look(), before);
}

#[tokio::test]
async fn a_namespace_that_is_filled_later_is_the_guests_then() {
    if !on_its_own("a_namespace_that_is_filled_later_is_the_guests_then") {
        return;
    }
    let Some(host) = Host::new() else { return };
    run("ip netns add a");
    let runtime = host.runtime();
    let network = NetNs::new("/run/netns/a").devices_ahead(1);
    // The smallest machine, which takes no devices later.
    let sandbox = start(&runtime, network, 0).await;
    let container = host.sleeper(&sandbox, "c").await;
    let links = shown(&container, "ip -o link").await;
    assert!(!links.contains("eth0:"), "an idle card is seen: {links}");
    run("ip netns del a 2>/dev/null || true; true");
    assert!(
        sandbox.rescan_networks().await.is_err(),
        "its namespace is gone"
    );
    sandbox.delete().await.unwrap();

    run("ip netns add x");
    let network = NetNs::new("/run/netns/x").devices_ahead(1);
    let sandbox = start(&runtime, network, 0).await;
    let container = host.sleeper(&sandbox, "c").await;
    assert!(sandbox.rescan_networks().await.unwrap().is_empty());
    run(
        "ip link add br0 type bridge; ip addr add 10.88.0.1/24 dev br0; ip link set br0 up
         ip link add vx type veth peer name eth0 netns x; ip link set vx master br0 up
         ip -n x link set eth0 up; ip -n x addr add 10.88.0.7/24 dev eth0
         ip -n x route add default via 10.88.0.1",
    );
    let interfaces = sandbox.rescan_networks().await.unwrap();
    assert_eq!(interfaces[0].name, "eth0");
    reaches(&container, "10.88.0.1").await;
    let own = interfaces[0].mac.to_string();
    assert!(
        shown(&container, "ip -o link show eth0")
            .await
            .contains(&own)
    );
    assert!(
        run("ip -n x -o link show eth0").contains(&own),
        "it is another's"
    );
    // Addresses and routes that come later still.
    run("ip -n x addr add 10.88.0.8/24 dev eth0; ip -n x route add 10.55.0.0/16 via 10.88.0.1");
    sandbox.rescan_networks().await.unwrap();
    let seen = shown(&container, "ip addr show eth0; ip route").await;
    assert!(
        seen.contains("10.88.0.8/24") && seen.contains("10.55.0.0/16"),
        "{seen}"
    );
    // There is no second device.
    run(
        "ip link add vy type veth peer name eth1 netns x; ip link set vy up
         ip -n x link set eth1 up; ip -n x addr add 10.77.0.2/24 dev eth1",
    );
    let error = sandbox.rescan_networks().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("eth1"), "{error}");
    assert!(error.remedy().unwrap().contains("spare_interfaces"));
    let port = GuestConfig::new("02:00:00:00:00:99".parse().unwrap());
    let error = sandbox
        .add_network("more", BridgePort::new("br0", port))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    sandbox.stop(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn routes_and_addresses_are_what_they_are_set_to() {
    if !on_its_own("routes_and_addresses_are_what_they_are_set_to") {
        return;
    }
    let Some(host) = Host::new() else { return };
    prepare("a", 2);
    run(
        "ip -n a route add 10.2.0.0/16 via 10.88.0.1 metric 7 mtu 1300
         ip -n a route add 10.3.0.0/16 nexthop via 10.88.0.8 weight 3 nexthop via 10.88.0.9
         ip -n a route add 203.0.113.1 via 192.0.2.1 dev eth0 onlink
         ip -n a route add 10.4.0.0/16 dev eth0 scope link table 77
         ip -n a route add unreachable 10.5.0.0/16
         ip -n a -6 route add fd02::/64 nexthop via fd88::8 nexthop via fd88::9
         ip -n a rule add from 10.88.0.2 lookup 77 priority 100",
    );
    let runtime = host.runtime();
    let sandbox = start(&runtime, NetNs::new("/run/netns/a"), 0).await;
    let container = host.sleeper(&sandbox, "c").await;
    let list = "ip route show table all; ip -6 route; ip rule";
    let seen = shown(&container, list).await;
    for part in [
        "10.2.0.0/16 via 10.88.0.1 dev eth0  metric 7",
        "10.3.0.0/16",
        "203.0.113.1 via 192.0.2.1",
        "10.4.0.0/16 dev eth0",
        "unreachable 10.5.0.0/16",
        "fd02::/64",
        "100:",
    ] {
        assert!(seen.contains(part), "{part} is not in\n{seen}");
    }
    // IPv6 is used at once: nothing waits for others to object.
    assert!(
        !shown(&container, "ip -6 addr")
            .await
            .contains("tentative fd88")
    );
    let (routes, rules) = sandbox.routes().await.unwrap();
    assert_eq!(rules.len(), 1);
    assert!(
        routes
            .iter()
            .any(|it| it.next_hops.len() == 2 && it.next_hops[0].weight == 3)
    );

    let mut spread = Route::to("10.6.0.0/16".parse().unwrap(), "");
    let hop = |last: u8| NextHop::new(format!("10.88.0.{last}").parse().ok(), "eth0");
    spread.next_hops = vec![hop(11), hop(12)];
    let mut nowhere = Route::to("10.7.0.0/16".parse().unwrap(), "");
    nowhere.kind = RouteKind::Blackhole;
    let mut rule = Rule::default();
    rule.priority = 200;
    rule.table = Some(254);
    let default = Route::default_through("10.88.0.1".parse().unwrap(), "eth0");
    let set = vec![default, spread, nowhere];
    sandbox.set_routes(set.clone(), vec![rule]).await.unwrap();
    let seen = shown(&container, list).await;
    for part in ["10.6.0.0/16", "blackhole 10.7.0.0/16", "200:"] {
        assert!(seen.contains(part), "{part} is not in\n{seen}");
    }
    assert!(
        !seen.contains("10.2.0.0/16") && !seen.contains("100:"),
        "{seen}"
    );
    reaches(&container, "10.88.0.1").await;
    // What cannot be leaves all as it was.
    let absurd = Route::default_through("192.0.2.77".parse().unwrap(), "eth7");
    let refused = sandbox.set_routes(vec![absurd], Vec::new()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidConfig);
    assert_eq!(sandbox.routes().await.unwrap().0, set);

    let mut eth0 = sandbox.interfaces().await.unwrap().remove(0);
    eth0.addresses = vec!["10.88.0.40/24".parse().unwrap()];
    eth0.mtu = 1400;
    eth0.new_mac = Some("02:00:00:00:00:40".parse().unwrap());
    sandbox.set_interface(eth0).await.unwrap();
    let seen = shown(&container, "ip addr show eth0; ip route").await;
    for part in [
        "10.88.0.40/24",
        "mtu 1400",
        "02:00:00:00:00:40",
        "default via 10.88.0.1",
    ] {
        assert!(seen.contains(part), "{part} is not in\n{seen}");
    }
    assert!(!seen.contains("10.88.0.2/24"), "{seen}");
    sandbox.stop(Duration::ZERO).await.unwrap();
}
