//! Sandboxes in networks, with real guests.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod common;

use std::path::Path;
use std::time::Duration;

use common::network::{on_its_own, prepare, run};
use common::{Host, sh, text};
use kata_sandbox::network::{Cni, NetNs, PortMapping};
use kata_sandbox::{ErrorKind, MemorySize, Runtime, Sandbox, Transport};

async fn start(runtime: &Runtime, id: &str, netns: &str) -> Sandbox {
    let builder = runtime.sandbox(id).memory(MemorySize::mib(128));
    let network = NetNs::new(format!("/run/netns/{netns}"));
    let started = builder
        .network(network)
        .boot_timeout(Duration::from_secs(120))
        .start()
        .await;
    started.unwrap_or_else(|error| panic!("{error:#}"))
}

/// What there is in a namespace, but for the kernel's own link-local addresses,
/// which come when it has made sure of them.
fn look(netns: &str) -> String {
    let ip = format!("ip -n {netns}");
    let tc = format!("tc -n {netns}");
    run(&format!(
        "{ip} -d link; {ip} addr | grep -v fe80; {ip} route show table all | grep -v fe80; {ip} rule
         {tc} qdisc show; {tc} filter show dev eth0 ingress"
    ))
}

#[tokio::test]
async fn a_prepared_namespace_is_the_guests() {
    if !on_its_own("a_prepared_namespace_is_the_guests") {
        return;
    }
    let Some(host) = Host::new() else { return };
    prepare("a", 2);
    prepare("b", 3);
    let before = look("a");
    let runtime = host.runtime();
    let (a, b) = tokio::join!(start(&runtime, "a", "a"), start(&runtime, "b", "b"));
    let (in_a, in_b) = (host.sleeper(&a, "c").await, host.sleeper(&b, "c").await);

    let seen = text(&sh(&in_a, "ip addr; ip route; ip -6 route").await.stdout);
    for part in [
        "inet 10.88.0.2/24",
        "inet6 fd88::2/64",
        "default via 10.88.0.1",
        "default via fd88::1",
    ] {
        assert!(seen.contains(part), "{part} is not in\n{seen}");
    }
    for address in ["10.88.0.1", "fd88::1", "10.88.0.3", "fd88::3"] {
        let output = sh(&in_a, &format!("ping -c 1 -W 20 {address}")).await;
        assert!(output.exit.success(), "{address}: {}", text(&output.stdout));
    }
    run("busybox ping -c 1 -W 20 10.88.0.2 && busybox ping -c 1 -W 20 fd88::3");
    // It listens when it has gone into the background.
    let serve = "echo over-tcp > /data/x; httpd -p '[::]:80' -h /data";
    assert!(sh(&in_b, serve).await.exit.success());
    for address in ["10.88.0.3", "[fd88::3]"] {
        let got = sh(&in_a, &format!("wget -q -O - http://{address}/x")).await;
        assert_eq!(text(&got.stdout), "over-tcp\n", "{address}");
        run(&format!(
            "busybox wget -q -O - http://{address}/x | grep over-tcp"
        ));
    }

    a.stop(Duration::ZERO).await.unwrap();
    b.stop(Duration::ZERO).await.unwrap();
    assert_eq!(look("a"), before, "the namespace is not as it was");
}

#[tokio::test]
async fn cni_plugins_connect_sandboxes_and_publish_ports() {
    if !on_its_own("cni_plugins_connect_sandboxes_and_publish_ports") {
        return;
    }
    if !Path::new("/usr/lib/cni/bridge").is_file() {
        eprintln!("skipped: there are no CNI plugins in /usr/lib/cni");
        return;
    }
    let Some(host) = Host::new() else { return };
    let directory = host.directory.path().display();
    let list = format!(
        r#"{{"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
              "ipam": {{"type": "host-local", "dataDir": "{directory}/leases",
                "ranges": [[{{"subnet": "10.7.0.0/24"}}], [{{"subnet": "fd07::/64"}}]],
                "routes": [{{"dst": "0.0.0.0/0"}}, {{"dst": "::/0"}}]}}}},
            {{"type": "portmap", "snat": true, "capabilities": {{"portMappings": true}}}}]}}"#
    );
    run("sysctl -q -w net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1 || true");
    let cni = Cni::from_json(&list).unwrap();
    let cni = cni.state_dir(format!("{directory}/state"));
    let published = cni.clone().port_mapping(PortMapping::tcp(8088, 80));
    let runtime = host.runtime();
    let start = async |id: &str, network: Cni| {
        let builder = runtime.sandbox(id).memory(MemorySize::mib(128)).vcpus(2);
        let started = builder
            .network(network)
            .boot_timeout(Duration::from_secs(120));
        started
            .start()
            .await
            .unwrap_or_else(|error| panic!("{error:#}"))
    };
    let (a, b) = tokio::join!(start("a", published), start("b", cni));
    let (in_a, in_b) = (host.sleeper(&a, "c").await, host.sleeper(&b, "c").await);
    let serve = "echo published > /data/x; httpd -p '[::]:80' -h /data";
    assert!(sh(&in_a, serve).await.exit.success());
    for address in [
        "10.7.0.2",
        "10.7.0.3",
        "[fd07::2]",
        "[fd07::3]",
        "10.7.0.1:8088",
    ] {
        let got = sh(&in_b, &format!("wget -q -O - http://{address}/x")).await;
        // Which of the two got which address is chance.
        let own = text(&sh(&in_b, "ip addr").await.stdout);
        let bare = address.trim_matches(['[', ']']);
        if !own.contains(&format!("{bare}/")) {
            let said = text(&got.stderr);
            assert_eq!(text(&got.stdout), "published\n", "{address}: {said}\n{own}");
        }
    }
    run("busybox wget -q -O - http://10.7.0.1:8088/x | grep published");
    a.stop(Duration::ZERO).await.unwrap();
    b.stop(Duration::ZERO).await.unwrap();
    let left = run(&format!(
        "ip netns; ls {directory}/state; ip -o link show type veth"
    ));
    assert_eq!(left, "");
}

#[tokio::test]
async fn ports_are_forwarded_without_a_network() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let sandbox = host.start(&runtime, "s").await;
    let container = host.sleeper(&sandbox, "c").await;
    let serve = "echo forwarded > /data/x; httpd -p 127.0.0.1:80 -h /data
        httpd -p '[::1]:81' -h /data";
    assert!(sh(&container, serve).await.exit.success());
    for (host_side, port) in [("127.0.0.1:0", 80), ("[::1]:0", 80), ("127.0.0.1:0", 81)] {
        let address = host_side.parse().unwrap();
        let Ok(forwarding) = sandbox.forward(Transport::Tcp, address, port).await else {
            eprintln!("skipped: {address} is no address of this host");
            continue;
        };
        let url = format!("http://{}/x", forwarding.local_addr());
        let fetch = move || run(&format!("busybox wget -q -O - {url}"));
        let got = tokio::task::spawn_blocking(fetch).await.unwrap();
        assert_eq!(got, "forwarded\n");
        let taken = sandbox
            .forward(Transport::Tcp, forwarding.local_addr(), 80)
            .await;
        assert_eq!(taken.unwrap_err().kind(), ErrorKind::AlreadyExists);
    }
    sandbox.stop(Duration::ZERO).await.unwrap();
}
