//! Namespaces that others have prepared.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod common;

use common::{on_its_own, run};
use kata_network::{
    Attachment, BridgePort, Endpoint, Error, GuestConfig, Lease, NetNs, Network, Rate, RateLimits,
    RouteKind, SetupRequest, Tap, User, WiringModel,
};

/// A namespace `x` with one end of a veth pair.
fn prepare() {
    run("ip netns add x
         ip link add vx type veth peer name eth0 netns x
         ip link set vx up; ip -n x link set eth0 up mtu 1400
         ip -n x addr add 10.1.0.2/24 dev eth0
         ip -n x addr add 10.1.0.3/24 dev eth0
         ip -n x -6 addr add fd01::2/64 dev eth0 nodad
         ip -n x -6 addr add fd01::3/64 dev eth0 nodad
         ip -n x route add default via 10.1.0.1");
}

async fn set_up(network: &NetNs, processors: u32) -> Lease {
    let request = SetupRequest::new("s").processors(processors);
    network.setup(&request).await.unwrap()
}

fn queues(endpoint: &Endpoint) -> usize {
    match &endpoint.attachment {
        Attachment::Tap(queues) => queues.len(),
        other => panic!("{other:?}"),
    }
}

/// What `ip` lists, but for the state of operation: the kernel tells it some time
/// after a link has come up.
fn without_state(listed: &str) -> String {
    let mut words = listed.split(' ');
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        match word {
            "state" => drop(words.next()),
            flags => kept.push(flags.replace("NO-CARRIER,", "")),
        }
    }
    kept.join(" ")
}

#[tokio::test]
async fn nothing_is_lost_and_nothing_reordered() {
    if !on_its_own("nothing_is_lost_and_nothing_reordered") {
        return;
    }
    prepare();
    run("ip -n x addr add 10.9.0.2 peer 10.9.0.1/32 dev eth0
         ip -n x route add 10.2.0.0/16 via 10.1.0.9 metric 7 mtu 1300 src 10.1.0.3
         ip -n x route add 10.3.0.0/16 nexthop via 10.1.0.8 weight 3 nexthop via 10.1.0.9
         ip -n x route add 203.0.113.1 via 192.0.2.1 dev eth0 onlink
         ip -n x route add 10.4.0.0/16 dev eth0 scope link table 77
         ip -n x route add unreachable 10.5.0.0/16
         ip -n x -6 route add default via fd01::1
         ip -n x -6 route add fd02::/64 nexthop via fd01::8 nexthop via fd01::9
         ip -n x -6 route add blackhole fd03::/64
         ip -n x rule add from 10.1.0.3 lookup 77 priority 100
         ip -n x -6 rule add fwmark 5/0xff lookup 78 priority 101
         ip -n x neigh add 10.1.0.1 lladdr 02:00:00:00:00:99 dev eth0 nud permanent");
    let network = NetNs::new("/run/netns/x");
    let lease = set_up(&network, 1).await;

    assert_eq!(lease.interfaces.len(), 1);
    let eth0 = &lease.interfaces[0];
    assert_eq!((eth0.name.as_str(), eth0.mtu), ("eth0", 1400));
    let addresses: Vec<_> = eth0.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(
        addresses,
        [
            "10.1.0.2/24",
            "10.9.0.2/32",
            "10.1.0.3/24",
            "fd01::2/64",
            "fd01::3/64"
        ]
    );
    let to = |destination: &str| {
        let destination = destination.parse().unwrap();
        let mut found = lease.routes.iter();
        found
            .find(|route| route.destination == Some(destination))
            .unwrap_or_else(|| panic!("{destination} is not in {:#?}", lease.routes))
    };
    assert_eq!(to("0.0.0.0/0").gateway, "10.1.0.1".parse().ok());
    assert_eq!(to("10.9.0.1/32").source, "10.9.0.2".parse().ok());
    let special = to("10.2.0.0/16");
    assert_eq!((special.metric, special.mtu), (Some(7), Some(1300)));
    assert_eq!(special.source, "10.1.0.3".parse().ok());
    let hops = &to("10.3.0.0/16").next_hops;
    assert_eq!(hops.len(), 2);
    assert_eq!((hops[0].weight, hops[1].weight), (3, 1));
    assert_eq!(hops[0].gateway, "10.1.0.8".parse().ok());
    assert!(to("203.0.113.1/32").on_link);
    assert_eq!(
        (to("10.4.0.0/16").table, to("10.4.0.0/16").scope),
        (Some(77), Some(253))
    );
    assert_eq!(to("10.5.0.0/16").kind, RouteKind::Unreachable);
    assert_eq!(to("::/0").gateway, "fd01::1".parse().ok());
    assert_eq!(to("fd02::/64").next_hops.len(), 2);
    assert_eq!(to("fd03::/64").kind, RouteKind::Blackhole);
    let rules: Vec<_> = lease
        .rules
        .iter()
        .map(|rule| (rule.priority, rule.table))
        .collect();
    assert_eq!(rules, [(100, Some(77)), (101, Some(78))]);
    assert_eq!(lease.rules[0].source, "10.1.0.3/32".parse().ok());
    assert_eq!(lease.rules[1].mark, Some((5, 0xff)));
    assert_eq!(
        lease.neighbors[0].address,
        "10.1.0.1".parse::<std::net::IpAddr>().unwrap()
    );
    network.teardown("s").await.unwrap();
}

#[tokio::test]
async fn a_tap_has_a_queue_for_each_processor_and_is_taken_back() {
    if !on_its_own("a_tap_has_a_queue_for_each_processor_and_is_taken_back") {
        return;
    }
    prepare();
    let look = || {
        without_state(&run(
            "ip -n x -d link; tc -n x qdisc show; tc -n x filter show dev eth0 ingress",
        ))
    };
    let before = look();
    let network = NetNs::new("/run/netns/x");
    let lease = set_up(&network, 3).await;
    assert_eq!(queues(&lease.endpoints[0]), 3);
    let wired = look();
    assert!(
        wired.contains("multi_queue") && wired.contains("vnet_hdr"),
        "{wired}"
    );
    assert!(wired.contains("Redirect to device kata2"), "{wired}");
    let again = network.rescan(&SetupRequest::new("s")).await.unwrap();
    assert!(again.endpoints.is_empty(), "{again:?}");
    // Another process, after a crash: the taps are gone with their queues.
    drop(lease);
    let again = kata_network::from_description(&network.description().unwrap()).unwrap();
    again.teardown("s").await.unwrap();
    again.teardown("s").await.unwrap();
    assert_eq!(look(), before);
}

#[tokio::test]
async fn an_interface_that_comes_later_is_found_by_looking_again() {
    if !on_its_own("an_interface_that_comes_later_is_found_by_looking_again") {
        return;
    }
    run("ip netns add x");
    let network = NetNs::new("/run/netns/x");
    assert!(set_up(&network, 1).await.endpoints.is_empty());
    run("ip link add vx type veth peer name eth0 netns x
         ip link set vx up; ip -n x link set eth0 up; ip -n x addr add 10.1.0.2/24 dev eth0");
    let found = network.rescan(&SetupRequest::new("s")).await.unwrap();
    assert_eq!((found.endpoints.len(), found.interfaces.len()), (1, 1));
    run("ip -n x route add default via 10.1.0.1");
    let found = network.rescan(&SetupRequest::new("s")).await.unwrap();
    assert_eq!((found.endpoints.len(), found.routes.len()), (0, 1));
    network.teardown("s").await.unwrap();
}

#[tokio::test]
async fn an_interface_that_is_gone_is_told_by_looking_again() {
    if !on_its_own("an_interface_that_is_gone_is_told_by_looking_again") {
        return;
    }
    prepare();
    let network = NetNs::new("/run/netns/x");
    let lease = set_up(&network, 1).await;
    // Another one of the same name.
    run("ip link del vx
         ip link add vx type veth peer name eth0 netns x
         ip link set vx up; ip -n x link set eth0 up; ip -n x addr add 10.1.0.9/24 dev eth0");
    let found = network.rescan(&SetupRequest::new("s")).await.unwrap();
    assert_eq!(found.gone, ["eth0"]);
    assert_eq!((found.endpoints.len(), found.interfaces.len()), (1, 1));
    assert_eq!(found.interfaces[0].addresses[0].to_string(), "10.1.0.9/24");
    assert!(!run("ip -n x -o link").contains("kata2:"), "its tap stays");
    // Addresses of what is there already are told too.
    run("ip -n x addr add 10.1.0.10/24 dev eth0");
    let again = network.rescan(&SetupRequest::new("s")).await.unwrap();
    assert!(again.gone.is_empty() && again.endpoints.is_empty());
    assert_eq!(again.interfaces[0].addresses.len(), 2);
    drop((lease, found));
    network.teardown("s").await.unwrap();
}

#[tokio::test]
async fn devices_wait_for_interfaces_that_come_later() {
    if !on_its_own("devices_wait_for_interfaces_that_come_later") {
        return;
    }
    run("ip netns add x");
    let network = NetNs::new("/run/netns/x").devices_ahead(1);
    let request = SetupRequest::new("s").most_devices(0);
    let reserved = network.reserve(&request).await.unwrap();
    let lease = network.setup(&request).await.unwrap();
    assert_eq!((reserved.len(), lease.interfaces.len()), (1, 0));
    run(
        "for i in 0 1; do ip link add vx$i type veth peer name eth$i netns x
         ip link set vx$i up; ip -n x link set eth$i up; done",
    );
    let found = network.rescan(&request).await.unwrap();
    assert!(found.endpoints.is_empty(), "{found:?}");
    assert_eq!(found.interfaces[0].mac, reserved[0].mac);
    assert!(found.interfaces[0].new_mac.is_some());
    assert_eq!(found.left_out, ["eth1"], "there is no second device");
    drop(reserved);
    network.teardown("s").await.unwrap();
}

#[tokio::test]
async fn what_goes_through_is_counted_and_limited_and_no_longer() {
    if !on_its_own("what_goes_through_is_counted_and_limited_and_no_longer") {
        return;
    }
    prepare();
    run("ip addr add 10.1.0.1/24 dev vx");
    let look = || run("tc -n x qdisc show");
    let network = NetNs::new("/run/netns/x");
    let before = look();
    let lease = set_up(&network, 1).await;
    // Nobody answers, but packets come, and are counted when they are taken.
    run("busybox ping -c 1 -W 1 10.1.0.2 || true");
    let Attachment::Tap(taps) = &lease.endpoints[0].attachment else {
        panic!("it is no tap");
    };
    assert!(rustix::io::read(&taps[0], &mut [0; 2048]).unwrap() > 0);
    let counted = network.counters("s").await.unwrap();
    assert_eq!(counted[0].interface, "eth0");
    assert!(counted[0].received > 0, "{counted:?}");
    let limits = RateLimits::none()
        .receive(Rate::bits_per_second(8_000_000))
        .send(Rate::bits_per_second(16_000_000).burst(100_000));
    network.limit("s", "eth0", &limits).await.unwrap();
    let limited = look();
    for (device, rate) in [("kata2", "8Mbit"), ("eth0", "16Mbit")] {
        let mut lines = limited.lines();
        let found = lines
            .any(|line| line.contains("tbf 4b41:") && line.contains(device) && line.contains(rate));
        assert!(found, "{device} {rate}: {limited}");
    }
    // Other limits take the place of earlier ones; another process undoes them.
    let limits = RateLimits::none().send(Rate::bits_per_second(1_000_000));
    network.limit("s", "eth0", &limits).await.unwrap();
    assert_eq!(look().matches("tbf").count(), 1, "{}", look());
    let unknown = network.limit("s", "eth7", &limits).await.unwrap_err();
    assert!(unknown.to_string().contains("eth7"), "{unknown}");
    drop(lease);
    let again = kata_network::from_description(&network.description().unwrap()).unwrap();
    again.teardown("s").await.unwrap();
    assert_eq!(look(), before);
    // What somebody else has set stays.
    run("tc -n x qdisc add dev eth0 root handle 7: tbf rate 1mbit burst 64k latency 50ms");
    let lease = set_up(&network, 1).await;
    let refused = network.limit("s", "eth0", &limits).await.unwrap_err();
    assert!(refused.to_string().contains("somebody else"), "{refused}");
    drop(lease);
    network.teardown("s").await.unwrap();
    assert!(look().contains("tbf 7:"), "{}", look());
}

#[tokio::test]
async fn a_macvtap_takes_the_place_of_filters_where_it_is_asked_for() {
    if !on_its_own("a_macvtap_takes_the_place_of_filters_where_it_is_asked_for") {
        return;
    }
    prepare();
    let look = || without_state(&run("ip -n x -o link"));
    let before = look();
    let network = NetNs::new("/run/netns/x").wiring_of("eth0", WiringModel::Macvtap);
    let lease = set_up(&network, 2).await;
    assert_eq!(queues(&lease.endpoints[0]), 2);
    let wired = run("ip -n x -d link show type macvtap");
    assert!(wired.contains("mode passthru"), "{wired}");
    drop(lease);
    network.teardown("s").await.unwrap();
    assert_eq!(look(), before);
}

#[tokio::test]
async fn taps_and_macvtaps_that_are_there_need_no_wiring() {
    if !on_its_own("taps_and_macvtaps_that_are_there_need_no_wiring") {
        return;
    }
    prepare();
    run("ip -n x tuntap add tap0 mode tap multi_queue vnet_hdr
         ip -n x tuntap add tap1 mode tap vnet_hdr
         ip -n x link set tap0 up; ip -n x link set tap1 up
         ip -n x link set eth0 down; ip -n x addr flush dev eth0
         ip link add vy type veth peer name low netns x; ip link set vy up; ip -n x link set low up
         ip -n x link add link low name mv0 type macvtap mode bridge; ip -n x link set mv0 up
         ip -n x link set low down");
    let network = NetNs::new("/run/netns/x");
    let lease = set_up(&network, 2).await;
    let names: Vec<_> = lease.interfaces.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["tap0", "tap1", "mv0"]);
    let all: Vec<_> = lease.endpoints.iter().map(queues).collect();
    assert_eq!(all, [2, 1, 2]);
    drop(lease);
    network.teardown("s").await.unwrap();
    assert!(run("ip -n x -o link").contains("tap0"), "it was not ours");
}

#[tokio::test]
async fn macvlans_are_wired_and_what_is_no_ethernet_is_refused() {
    if !on_its_own("macvlans_are_wired_and_what_is_no_ethernet_is_refused") {
        return;
    }
    run("ip netns add x
         ip link add va type veth peer name vb; ip link set va up; ip link set vb up
         ip link add link va name mv0 type macvlan mode bridge
         ip link set mv0 netns x; ip -n x link set mv0 up
         ip -n x addr add 10.1.0.2/24 dev mv0");
    let network = NetNs::new("/run/netns/x");
    let lease = set_up(&network, 1).await;
    assert_eq!(lease.interfaces[0].name, "mv0");
    drop(lease);
    network.teardown("s").await.unwrap();
    run(
        "ip -n x tuntap add tun0 mode tun; ip -n x link set tun0 up; ip -n x addr add 10.2.0.1/24 dev tun0",
    );
    let error = network.setup(&SetupRequest::new("s")).await.unwrap_err();
    assert!(
        matches!(&error, Error::Interface { interface, kind, .. } if interface == "tun0" && kind == "tun"),
        "{error}"
    );
    network.teardown("s").await.unwrap();
}

#[tokio::test]
async fn a_namespace_without_ipv6_is_adopted_all_the_same() {
    if !on_its_own("a_namespace_without_ipv6_is_adopted_all_the_same") {
        return;
    }
    prepare();
    run("ip netns exec x sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6'");
    let network = NetNs::new("/run/netns/x");
    let lease = set_up(&network, 1).await;
    let addresses: Vec<_> = lease.interfaces[0]
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(addresses, ["10.1.0.2/24", "10.1.0.3/24"]);
    drop(lease);
    network.teardown("s").await.unwrap();
}

#[tokio::test]
async fn filters_of_somebody_else_are_left_alone_and_told() {
    if !on_its_own("filters_of_somebody_else_are_left_alone_and_told") {
        return;
    }
    prepare();
    run("tc -n x qdisc add dev eth0 ingress");
    let network = NetNs::new("/run/netns/x");
    let error = network.setup(&SetupRequest::new("s")).await.unwrap_err();
    assert!(error.to_string().contains("eth0"), "{error}");
    network.teardown("s").await.unwrap();
    assert!(
        run("tc -n x qdisc show").contains("ingress"),
        "it was not ours"
    );
}

#[tokio::test]
async fn a_tap_of_a_bridge_goes_with_its_sandbox() {
    if !on_its_own("a_tap_of_a_bridge_goes_with_its_sandbox") {
        return;
    }
    run("ip link add br7 type bridge; ip link set br7 up");
    let guest = GuestConfig::new("02:00:00:00:00:07".parse().unwrap()).mtu(1400);
    let network = BridgePort::new("br7", guest.clone());
    let lease = network.setup(&SetupRequest::new("s")).await.unwrap();
    let ports = || run("ip -o link show master br7");
    assert!(ports().contains("mtu 1400"), "{}", ports());
    // As after a crash: the taps are gone with their queues, or are removed.
    network.teardown("s").await.unwrap();
    network.teardown("s").await.unwrap();
    assert_eq!(ports(), "");
    drop(lease);
    let network = BridgePort::new("no-such", guest);
    let error = network.setup(&SetupRequest::new("s")).await.unwrap_err();
    assert!(error.to_string().contains("no-such"), "{error}");
    network.teardown("s").await.unwrap();
}

#[tokio::test]
async fn a_tap_that_the_caller_has_is_taken_by_name_and_stays() {
    if !on_its_own("a_tap_that_the_caller_has_is_taken_by_name_and_stays") {
        return;
    }
    run("ip tuntap add mine mode tap multi_queue vnet_hdr; ip link set mine up");
    let guest = GuestConfig::new("02:00:00:00:00:07".parse().unwrap());
    let network = Tap::named("mine", guest.clone());
    let request = SetupRequest::new("s").processors(2);
    let lease = network.setup(&request).await.unwrap();
    assert_eq!(queues(&lease.endpoints[0]), 2);
    let Attachment::Tap(taps) = lease.endpoints.into_iter().next().unwrap().attachment else {
        panic!("it is no tap");
    };
    let given = Tap::queues(taps, guest);
    let lease = given.setup(&request).await.unwrap();
    assert_eq!(queues(&lease.endpoints[0]), 2);
    network.teardown("s").await.unwrap();
    run("ip link show mine");
}

#[tokio::test]
async fn a_macvtap_is_taken_by_name_and_what_is_no_tap_is_refused() {
    if !on_its_own("a_macvtap_is_taken_by_name_and_what_is_no_tap_is_refused") {
        return;
    }
    run(
        "ip link add va type veth peer name vb; ip link set va up; ip link set vb up
         ip link add link vb name mv0 type macvtap mode bridge; ip link set mv0 up",
    );
    let guest = GuestConfig::new("02:00:00:00:00:07".parse().unwrap());
    let network = Tap::named("mv0", guest.clone());
    let request = SetupRequest::new("s").processors(2);
    let lease = network.setup(&request).await.unwrap();
    assert_eq!(queues(&lease.endpoints[0]), 2);
    let error = Tap::named("va", guest).setup(&request).await.unwrap_err();
    assert!(
        matches!(&error, Error::Interface { kind, .. } if kind == "veth"),
        "{error}"
    );
}

#[tokio::test]
async fn passt_connects_without_privileges_and_is_ended() {
    if !on_its_own("passt_connects_without_privileges_and_is_ended") {
        return;
    }
    if !std::path::Path::new("/usr/bin/passt").exists() {
        eprintln!("skipped: there is no /usr/bin/passt");
        return;
    }
    let network = User::new();
    let error = network.setup(&SetupRequest::new("s")).await.unwrap_err();
    assert!(error.to_string().contains("no default route"), "{error}");
    run(
        "ip link add va type veth peer name vb; ip link set va up; ip link set vb up
         ip addr add 10.50.0.2/24 dev va; ip route add default via 10.50.0.1",
    );
    let lease = network.setup(&SetupRequest::new("s")).await.unwrap();
    assert!(matches!(
        lease.endpoints[0].attachment,
        Attachment::Stream(_)
    ));
    assert_eq!(
        lease.interfaces[0].addresses.len(),
        1,
        "the host has IPv4 alone"
    );
    network.teardown("s").await.unwrap();
    network.teardown("s").await.unwrap();
    let missing = User::new().program("/no/such/passt");
    let error = missing.setup(&SetupRequest::new("s")).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/passt"), "{error}");
    let wrong = User::new().tcp("192.0.2.1:80".parse().unwrap(), 80);
    let error = wrong.setup(&SetupRequest::new("s")).await.unwrap_err();
    assert!(
        error.to_string().contains("passt failed to start: "),
        "{error}"
    );
    wrong.teardown("s").await.unwrap();
}
