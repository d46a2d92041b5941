//! Every kind of endpoint, with real guests: both families, both ways, between
//! sandboxes and with the host.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod common;

use std::time::Duration;

use common::network::{on_its_own, prepare, run, serve};
use common::{Host, sh, text};
use kata_devices::net::{Link, NetConfig, Tap as DeviceTap};
use kata_devices::vhost_user::Server;
use kata_sandbox::network::{
    BridgePort, GuestConfig, NetNs, Network, Tap, User, VhostUser, WiringModel,
};
use kata_sandbox::{Container, MemorySize, Runtime, Sandbox};

/// A sandbox with two processors in a network, and a container whose port 80
/// serves its own name.
struct Guest {
    sandbox: Sandbox,
    container: Container,
}

impl Guest {
    async fn start(host: &Host, runtime: &Runtime, id: &str, network: impl Network) -> Self {
        let builder = runtime.sandbox(id).memory(MemorySize::mib(128)).vcpus(2);
        let builder = builder
            .network(network)
            .boot_timeout(Duration::from_secs(180));
        let sandbox = builder
            .start()
            .await
            .unwrap_or_else(|error| panic!("{error:#}"));
        let container = host.sleeper(&sandbox, "c").await;
        let serve = format!("echo {id} > /data/x; httpd -p '[::]:80' -h /data");
        assert!(sh(&container, &serve).await.exit.success());
        Self { sandbox, container }
    }

    /// The guest reaches `peer`, which serves `name` on port 80, by ping and TCP.
    async fn reaches(&self, peer: &str, name: &str) {
        let url = url(peer);
        let script = format!("ping -c 1 -W 30 {peer} && wget -q -O - {url}");
        let output = sh(&self.container, &script).await;
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(
            output.exit.success() && said.contains(name),
            "{peer}: {said}"
        );
    }

    async fn stop(self) {
        self.sandbox.stop(Duration::ZERO).await.unwrap();
    }
}

fn url(address: &str) -> String {
    if address.contains(':') {
        format!("http://[{address}]/x")
    } else {
        format!("http://{address}/x")
    }
}

/// The host reaches a guest that serves `name`.
fn host_reaches(guest: &str, name: &str) {
    let url = url(guest);
    run(&format!(
        "busybox ping -c 1 -W 30 {guest} && busybox wget -q -O - {url} | grep {name}"
    ));
}

/// A guest's `eth0` with the host part of both families' addresses.
fn config(part: u8) -> GuestConfig {
    let mac = format!("02:00:00:00:00:{part:02x}");
    GuestConfig::new(mac.parse().unwrap())
        .address(format!("10.88.0.{part}/24").parse().unwrap())
        .address(format!("fd88::{part}/64").parse().unwrap())
        .gateway("10.88.0.1".parse().unwrap())
        .gateway("fd88::1".parse().unwrap())
}

/// A link of a namespace: its name, the network it is in, and how it is made on
/// `up`, which has the other end of it on the host as `far`.
struct Made {
    name: &'static str,
    net: u8,
    how: &'static str,
}

const LINKS: [Made; 5] = [
    Made {
        name: "mv0",
        net: 90,
        how: "ip link add link up90 name mv0 netns x type macvlan mode bridge",
    },
    Made {
        name: "mt0",
        net: 91,
        how: "ip link add link up91 name mt0 netns x type macvtap mode bridge",
    },
    Made {
        name: "mw0",
        net: 92,
        how: "ip link set up92 down name mw0 netns x",
    },
    Made {
        name: "iv0",
        net: 93,
        how: "ip link add link up93 name iv0 netns x type ipvlan mode l2",
    },
    Made {
        name: "vl0",
        net: 94,
        how: "ip link add link up94 name vl0 netns x type vlan id 7
              ip link set far94 name low94; ip link set low94 up
              ip link add link low94 name far94 type vlan id 7",
    },
];

impl Made {
    /// Makes it, with addresses that end in 1 on the host and in 2 in the
    /// namespace. `false`, aloud, where the kernel has no such links.
    fn make(&self) -> bool {
        let Self { name, net, how } = self;
        run(&format!(
            "ip link add up{net} type veth peer name far{net}; ip link set up{net} up"
        ));
        let made = std::process::Command::new("sh")
            .args(["-ec", how])
            .output()
            .unwrap();
        if !made.status.success() {
            let why = String::from_utf8_lossy(&made.stderr);
            eprintln!("skipped: {name} cannot be made here: {}", why.trim());
            run(&format!("ip link del up{net}"));
            return false;
        }
        run(&format!(
            "ip link set far{net} up
             ip addr add 10.{net}.0.1/24 dev far{net}
             ip -6 addr add fd{net}::1/64 dev far{net} nodad
             ip -n x link set {name} up
             ip -n x addr add 10.{net}.0.2/24 dev {name}
             ip -n x -6 addr add fd{net}::2/64 dev {name} nodad"
        ));
        true
    }
}

#[tokio::test]
async fn links_of_every_kind_carry_both_families_both_ways() {
    if !on_its_own("links_of_every_kind_carry_both_families_both_ways") {
        return;
    }
    let Some(host) = Host::new() else { return };
    prepare("x", 2);
    let made: Vec<_> = LINKS.iter().filter(|link| link.make()).collect();
    serve("host");
    let before = run("ip -n x -o link; tc -n x qdisc show");
    let network = NetNs::new("/run/netns/x").wiring_of("mw0", WiringModel::Macvtap);
    let guest = Guest::start(&host, &host.runtime(), "x", network).await;
    let all = made
        .iter()
        .map(|link| (link.name, link.net))
        .chain([("eth0", 88)]);
    for (name, net) in all {
        eprintln!("through {name}");
        for (own, other) in [
            (format!("10.{net}.0.2"), format!("10.{net}.0.1")),
            (format!("fd{net}::2"), format!("fd{net}::1")),
        ] {
            guest.reaches(&other, "host").await;
            host_reaches(&own, "x");
        }
    }
    guest.stop().await;
    let after = run("ip -n x -o link; tc -n x qdisc show");
    assert_eq!(after, before, "the namespace is not as it was");
}

/// How many bytes each queue of a tap has brought to the guest.
fn sent_by_queue(tap: &str) -> Vec<u64> {
    let shown = run(&format!("tc -s qdisc show dev {tap}"));
    let mut lines = shown.lines();
    let mut sent = Vec::new();
    while let Some(line) = lines.next() {
        // The root stands for all of them.
        if line.contains(" parent ") {
            let mut counted = lines.next().unwrap().split_whitespace();
            sent.push(counted.nth(1).unwrap().parse().unwrap());
        }
    }
    sent
}

#[tokio::test]
async fn a_port_of_a_bridge_and_a_tap_by_name_meet_through_all_their_queues() {
    if !on_its_own("a_port_of_a_bridge_and_a_tap_by_name_meet_through_all_their_queues") {
        return;
    }
    let Some(host) = Host::new() else { return };
    // Makes the bridge.
    prepare("unused", 9);
    run("ip tuntap add mine mode tap multi_queue vnet_hdr; ip link set mine master br0 up");
    serve("host");
    let runtime = host.runtime();
    let (port, tap) = tokio::join!(
        Guest::start(&host, &runtime, "port", BridgePort::new("br0", config(2))),
        Guest::start(&host, &runtime, "tap", Tap::named("mine", config(3))),
    );
    for (net, own, other) in [("10.88.0.", "2", "3"), ("fd88::", "2", "3")] {
        port.reaches(&format!("{net}{other}"), "tap").await;
        tap.reaches(&format!("{net}{own}"), "port").await;
        for guest in [&port, &tap] {
            guest.reaches(&format!("{net}1"), "host").await;
        }
        host_reaches(&format!("{net}{own}"), "port");
        host_reaches(&format!("{net}{other}"), "tap");
    }

    let queues = sh(&tap.container, "ls /sys/class/net/eth0/queues").await;
    assert_eq!(text(&queues.stdout), "rx-0\nrx-1\ntx-0\ntx-1\n");
    // A processor sends through its own queue, and what answers comes back
    // through it.
    let before = sent_by_queue("mine");
    for processor in ["1", "2"] {
        let ping = format!("taskset {processor} ping -q -c 5 -s 1400 10.88.0.1");
        assert!(sh(&tap.container, &ping).await.exit.success());
    }
    let after = sent_by_queue("mine");
    let brought = after.iter().zip(&before);
    let brought: Vec<_> = brought.map(|(after, before)| after - before).collect();
    assert!(
        brought.len() == 2 && brought.iter().all(|bytes| *bytes > 5000),
        "{brought:?}"
    );
    port.stop().await;
    tap.stop().await;
    assert!(
        !run("ip -o link show master br0").contains(": kp"),
        "a port is left"
    );
}

#[tokio::test]
async fn a_macvtap_by_name_is_the_guests() {
    if !on_its_own("a_macvtap_by_name_is_the_guests") {
        return;
    }
    let Some(host) = Host::new() else { return };
    prepare("unused", 9);
    run(
        "ip link add vlow type veth peer name low; ip link set vlow master br0 up
         ip link set low up
         ip link add link low name mt0 type macvtap mode bridge
         ip link set mt0 address 02:00:00:00:00:02; ip link set mt0 up",
    );
    let network = Tap::named("mt0", config(2));
    let guest = Guest::start(&host, &host.runtime(), "x", network).await;
    host_reaches("10.88.0.2", "x");
    host_reaches("fd88::2", "x");
    guest.stop().await;
    run("ip link show mt0");
}

#[tokio::test]
async fn a_vhost_user_back_end_carries_both_families() {
    if !on_its_own("a_vhost_user_back_end_carries_both_families") {
        return;
    }
    let Some(host) = Host::new() else { return };
    prepare("unused", 9);
    serve("host");
    let socket = host.directory.path().join("net.sock");
    let card = NetConfig::new(Link::Tap(DeviceTap::open("vu0", 1).unwrap()));
    let _card = Server::net(card, &socket).unwrap();
    run("ip link set vu0 master br0 up");
    let network = VhostUser::new(socket, config(2));
    let guest = Guest::start(&host, &host.runtime(), "x", network).await;
    for net in ["10.88.0.", "fd88::"] {
        guest.reaches(&format!("{net}1"), "host").await;
        host_reaches(&format!("{net}2"), "x");
    }
    guest.stop().await;
}

/// What runs in the namespace `x`, ended when dropped.
struct World;

impl Drop for World {
    fn drop(&mut self) {
        run("ip netns pids x | xargs -r kill");
    }
}

#[tokio::test]
async fn passt_connects_a_guest_without_privileges() {
    if !on_its_own("passt_connects_a_guest_without_privileges") {
        return;
    }
    if !std::path::Path::new("/usr/bin/passt").exists() {
        eprintln!("skipped: there is no /usr/bin/passt");
        return;
    }
    let Some(host) = Host::new() else { return };
    // The namespace `x` is the world beyond this host's default route.
    run("ip netns add x; ip -n x link set lo up
         ip link add va type veth peer name vb netns x
         ip link set va up; ip -n x link set vb up
         ip addr add 10.50.0.2/24 dev va; ip -6 addr add fd50::2/64 dev va nodad
         ip route add default via 10.50.0.1; ip -6 route add default via fd50::1
         ip -n x addr add 10.50.0.1/24 dev vb; ip -n x -6 addr add fd50::1/64 dev vb nodad");
    let _world = World;
    let world = host.directory.path().join("world");
    std::fs::create_dir(&world).unwrap();
    std::fs::write(world.join("x"), "world\n").unwrap();
    // It listens when it has gone into the background.
    run(&format!(
        "ip netns exec x busybox httpd -p '[::]:80' -h {}",
        world.display()
    ));
    let port = |address: &str| address.parse().unwrap();
    let network = User::new()
        .tcp(port("10.50.0.2:8081"), 80)
        .tcp(port("[fd50::2]:8082"), 80);
    let guest = Guest::start(&host, &host.runtime(), "x", network).await;
    for address in ["10.50.0.1", "fd50::1"] {
        let url = url(address);
        let got = sh(&guest.container, &format!("wget -q -O - {url}")).await;
        assert_eq!(text(&got.stdout), "world\n", "{}", text(&got.stderr));
    }
    for address in ["10.50.0.2:8081", "[fd50::2]:8082"] {
        run(&format!(
            "ip netns exec x busybox wget -q -O - http://{address}/x | grep x"
        ));
    }
    guest.stop().await;
}
