//! Sandboxes in networks, with real guests.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod common;

use std::time::Duration;

use common::network::{on_its_own, prepare, run};
use common::{Host, sh, text};
use kata_sandbox::network::NetNs;
use kata_sandbox::{MemorySize, Runtime, Sandbox};

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
    let listening = in_b
        .exec("/bin/sh")
        .args(["-c", "nc -l -p 80 -e echo over-tcp"]);
    let listening = listening.spawn().await.unwrap();
    let got = sh(
        &in_a,
        "for i in 1 2 3 4 5 6 7 8 9; do nc -w 5 fd88::3 80 </dev/null && break; done",
    )
    .await;
    assert_eq!(text(&got.stdout), "over-tcp\n");
    drop(listening);

    a.stop(Duration::ZERO).await.unwrap();
    b.stop(Duration::ZERO).await.unwrap();
    assert_eq!(look("a"), before, "the namespace is not as it was");
}
