//! CNI plugins: the distribution's own, and some that misbehave.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod common;

use std::path::Path;
use std::time::Duration;

use common::{has_plugins, on_its_own, run};
use kata_network::{
    Bandwidth, Cni, Error, Lease, Network, PluginError, PluginFault, PortMapping, SetupRequest,
};
use tempfile::TempDir;

/// A bridge for both families, whose addresses are noted in `directory`.
fn bridge(directory: &Path, more: &str) -> String {
    let data = directory.join("leases").display().to_string();
    format!(
        r#"{{"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {{"type": "bridge", "bridge": "cni0", "isGateway": true, "mtu": 1450,
              "capabilities": {{"ips": true, "mac": true, "dns": true}},
              "ipam": {{"type": "host-local", "dataDir": "{data}",
                "ranges": [[{{"subnet": "10.7.0.0/24"}}], [{{"subnet": "fd07::/64"}}]],
                "routes": [{{"dst": "0.0.0.0/0"}}, {{"dst": "::/0"}}]}}}}{more}]}}"#
    )
}

fn network(directory: &TempDir, text: &str) -> Cni {
    let network = Cni::from_json(text).unwrap();
    network.state_dir(directory.path().join("state"))
}

fn with_plugin(directory: &TempDir, name: &str, script: &str) {
    let plugins = directory.path().join("plugins");
    std::fs::create_dir_all(&plugins).unwrap();
    let path = plugins.join(name);
    // A child writes it: nobody else then has it open when it is executed.
    let mut write = std::process::Command::new("sh");
    write.args([
        "-c",
        r#"printf '#!/bin/sh\n%s\n' "$1" > "$2" && chmod 755 "$2""#,
        "sh",
        script,
    ]);
    assert!(write.arg(path).status().unwrap().success());
}

async fn set_up(network: &Cni) -> Result<Lease, Error> {
    network.setup(&SetupRequest::new("s")).await
}

async fn plugin_error(network: &Cni) -> Box<PluginError> {
    match set_up(network).await.unwrap_err() {
        Error::Plugin(error) => error,
        other => panic!("{other:?}"),
    }
}

/// What is left on the host: namespaces, links, notes, addresses.
fn left(directory: &TempDir) -> String {
    let directory = directory.path().display();
    run(&format!(
        "ip netns; ip -o link show type veth; ls {directory}/state 2>/dev/null || true
         ls {directory}/leases/* 2>/dev/null | grep ^[0-9f] || true"
    ))
}

#[tokio::test]
async fn a_bridge_connects_both_families_and_leaves_nothing() {
    if !on_its_own("a_bridge_connects_both_families_and_leaves_nothing") || !has_plugins() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let more = r#", {"type": "portmap", "capabilities": {"portMappings": true}},
                    {"type": "bandwidth", "capabilities": {"bandwidth": true}},
                    {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}"#;
    let limits = Bandwidth {
        ingress_rate: 100_000_000,
        ingress_burst: 10_000_000,
        ..Bandwidth::default()
    };
    let network = network(&directory, &bridge(directory.path(), more))
        .port_mapping(PortMapping::tcp(8088, 80))
        .bandwidth(limits);
    let lease = set_up(&network).await.unwrap();
    let eth0 = &lease.interfaces[0];
    assert_eq!((eth0.name.as_str(), eth0.mtu), ("eth0", 1450));
    let addresses: Vec<_> = eth0.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.7.0.2/24", "fd07::2/64"]);
    let gateways: Vec<_> = lease
        .routes
        .iter()
        .filter_map(|route| route.gateway)
        .collect();
    let expected: Vec<std::net::IpAddr> =
        ["10.7.0.1", "fd07::1"].map(|it| it.parse().unwrap()).into();
    assert_eq!(gateways, expected);
    assert!(
        run("iptables-save").contains("8088"),
        "no port is published"
    );
    assert!(run("tc qdisc show").contains("tbf"), "nothing is limited");

    // Another process, after a crash.
    drop(lease);
    let again = kata_network::from_description(&network.description().unwrap()).unwrap();
    again.teardown("s").await.unwrap();
    again.teardown("s").await.unwrap();
    assert_eq!(left(&directory), "");
    assert!(
        !run("iptables-save").contains("8088"),
        "a port is still published"
    );
    assert!(network.check("s").await.is_err());
}

#[tokio::test]
async fn a_sandbox_can_have_several_networks() {
    if !on_its_own("a_sandbox_can_have_several_networks") || !has_plugins() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    run("ip link add va type veth peer name vb; ip link set va up; ip link set vb up");
    let data = directory.path().join("leases").display().to_string();
    let ptp = format!(
        r#"{{"cniVersion": "0.4.0", "name": "ptp", "type": "ptp",
             "ipam": {{"type": "host-local", "dataDir": "{data}", "subnet": "10.8.0.0/24"}},
             "dns": {{"nameservers": ["10.8.0.1"], "search": ["a.example"]}}}}"#
    );
    let macvlan = format!(
        r#"{{"cniVersion": "1.0.0", "name": "mv", "type": "macvlan", "master": "va",
             "ipam": {{"type": "host-local", "dataDir": "{data}", "subnet": "10.9.0.0/24"}}}}"#
    );
    let network = network(&directory, &bridge(directory.path(), ""));
    let network = network.and_json(&ptp).unwrap().and_json(&macvlan).unwrap();
    let lease = set_up(&network).await.unwrap();
    let names: Vec<_> = lease.interfaces.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["eth0", "eth1", "eth2"]);
    assert_eq!(lease.endpoints.len(), 3);
    assert_eq!(lease.search_domains, ["a.example"]);
    drop(lease);
    network.teardown("s").await.unwrap();
    run("ip link del va");
    assert_eq!(left(&directory), "");
}

#[tokio::test]
async fn devices_that_are_made_ahead_are_joined_to_what_the_plugins_make() {
    if !on_its_own("devices_that_are_made_ahead_are_joined_to_what_the_plugins_make")
        || !has_plugins()
    {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let network = network(&directory, &bridge(directory.path(), ""));
    let request = SetupRequest::new("s").processors(2);
    let reserved = network.reserve(&request).await.unwrap();
    assert_eq!(reserved.len(), 1);
    let lease = network.setup(&request).await.unwrap();
    assert!(lease.endpoints.is_empty(), "{:?}", lease.endpoints);
    let eth0 = &lease.interfaces[0];
    assert_eq!(eth0.mac, reserved[0].mac);
    let own = eth0.new_mac.unwrap().to_string();
    assert!(run("ip -n kata-s -o link show eth0").contains(&own));
    let filters = run("tc -n kata-s filter show dev eth0 ingress; ip -n kata-s -o link");
    assert!(filters.contains("Redirect to device kata3"), "{filters}");
    assert!(!filters.contains("kata4294967295"), "{filters}");
    let phases: Vec<_> = lease.phases.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(
        phases,
        [
            "network namespace",
            "cni bridge",
            "network scan",
            "taps and filters"
        ]
    );
    // Nothing new is there, and all of it is told again.
    let again = network.rescan(&request).await.unwrap();
    assert!(again.endpoints.is_empty() && again.gone.is_empty());
    assert_eq!(again.interfaces[0].addresses, eth0.addresses);
    assert_eq!(
        (Some(again.interfaces[0].mac), again.interfaces[0].new_mac),
        (eth0.new_mac, None)
    );
    drop((lease, reserved));
    network.teardown("s").await.unwrap();
    assert_eq!(left(&directory), "");
    // One that nothing follows is taken back too.
    drop(network.reserve(&request).await.unwrap());
    network.teardown("s").await.unwrap();
    assert_eq!(left(&directory), "");
}

#[tokio::test]
async fn plugins_that_nobody_knows_run_before_devices_are_made() {
    if !on_its_own("plugins_that_nobody_knows_run_before_devices_are_made") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let script = "[ $CNI_COMMAND = ADD ] || exit 0
        for i in eth0 eth1; do ip -n kata-s link add $i type bridge; ip -n kata-s link set $i up; done
        echo '{\"cniVersion\":\"1.0.0\"}'";
    with_plugin(&directory, "two", script);
    let two = network(&directory, r#"{"name": "pods", "type": "two"}"#);
    let two = two.plugin_dir(directory.path().join("plugins"));
    let request = SetupRequest::new("s");
    assert!(two.reserve(&request).await.unwrap().is_empty());
    let lease = two.setup(&request).await.unwrap();
    assert_eq!(lease.endpoints.len(), 2);
    drop(lease);
    two.teardown("s").await.unwrap();
    let forced = two.devices_ahead(true);
    let reserved = forced.reserve(&request).await.unwrap();
    assert_eq!(reserved.len(), 1);
    let error = forced.setup(&request).await.unwrap_err();
    assert!(error.to_string().contains("eth0, eth1"), "{error}");
    forced.teardown("s").await.unwrap();
    assert_eq!(left(&directory), "");
}

#[tokio::test]
async fn wishes_reach_the_plugins_that_declare_them() {
    if !on_its_own("wishes_reach_the_plugins_that_declare_them") || !has_plugins() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let network = network(&directory, &bridge(directory.path(), ""))
        .ip("10.7.0.77/24".parse().unwrap())
        .mac("02:11:22:33:44:55".parse().unwrap());
    let lease = set_up(&network).await.unwrap();
    assert_eq!(lease.interfaces[0].mac.to_string(), "02:11:22:33:44:55");
    let addresses = &lease.interfaces[0].addresses;
    assert_eq!(addresses[0].to_string(), "10.7.0.77/24");
    network.check("s").await.unwrap();
    run("ip -n kata-s addr flush dev eth0");
    let error = network.check("s").await.unwrap_err();
    assert!(error.to_string().contains("CHECK of eth0"), "{error}");
    drop(lease);
    network.teardown("s").await.unwrap();
}

const ANSWER: &str = r#"{"cniVersion":"1.0.0","ips":[]}"#;

#[tokio::test]
async fn a_plugin_that_is_missing_is_told_before_anything_is_made() {
    if !on_its_own("a_plugin_that_is_missing_is_told_before_anything_is_made") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let network = network(&directory, r#"{"name": "pods", "type": "no-such"}"#);
    let error = plugin_error(&network).await;
    assert!(
        matches!(error.fault, PluginFault::Missing { .. }),
        "{error}"
    );
    assert_eq!(
        (error.plugin.as_str(), error.network.as_str()),
        ("no-such", "pods")
    );
    assert_eq!(left(&directory), "");
    network.teardown("s").await.unwrap();
}

/// A network of one plugin that does what the script says.
fn misbehaving(directory: &TempDir, script: &str) -> Cni {
    with_plugin(directory, "bad", script);
    let plugins = directory.path().join("plugins");
    let text = r#"{"cniVersion": "1.0.0", "name": "pods", "type": "bad", "ipam": {"type": "x"}}"#;
    network(directory, text).plugin_dir(plugins)
}

#[tokio::test]
async fn plugins_that_misbehave_are_told_with_what_they_wrote() {
    if !on_its_own("plugins_that_misbehave_are_told_with_what_they_wrote") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let add = |what: &str| format!("[ $CNI_COMMAND = ADD ] || exit 0; echo oops >&2; {what}");
    for (script, expected) in [
        (add("kill -SEGV $$"), "it crashed (signal: 11"),
        (add("exit 7"), "it crashed (exit status: 7)"),
        (add("echo bananas"), "garbage (expected value"),
        (add("echo '{\"ips\": 7}'"), "garbage (its ips are no list"),
        (add("echo bananas; exit 1"), "garbage (expected value"),
        (
            add("echo '{\"code\": 11, \"msg\": \"later\", \"details\": \"full\"}'; exit 1"),
            "later (code 11): full",
        ),
        (add(&format!("echo '{ANSWER}'")), "it returned no address"),
        (
            "[ $CNI_COMMAND = VERSION ] && { echo '{\"supportedVersions\": [\"0.4.0\"]}'; exit 0; }
             [ $CNI_COMMAND = ADD ] || exit 0; echo oops >&2
             echo '{\"code\": 1, \"msg\": \"incompatible\"}'; exit 1"
                .to_owned(),
            "it does not speak CNI 1.0.0, but 0.4.0",
        ),
    ] {
        let network = misbehaving(&directory, &script);
        let error = plugin_error(&network).await;
        let text = error.to_string();
        assert!(text.contains(expected), "{script}: {text}");
        assert!(
            text.starts_with("CNI plugin bad of network pods: ADD of eth0"),
            "{text}"
        );
        let said = error.stderr == "oops\n" || text.contains("garbage") || text.contains("address");
        assert!(said, "{text}");
        network.teardown("s").await.unwrap();
        assert_eq!(left(&directory), "", "{script}");
    }
}

#[tokio::test]
async fn a_plugin_that_hangs_is_killed_and_asked_to_undo() {
    if !on_its_own("a_plugin_that_hangs_is_killed_and_asked_to_undo") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let calls = directory.path().join("calls");
    let script = format!(
        "echo $CNI_COMMAND $CNI_IFNAME $CNI_CONTAINERID >> {}; [ $CNI_COMMAND = DEL ] || sleep 1000",
        calls.display()
    );
    let network = misbehaving(&directory, &script).plugin_timeout(Duration::from_millis(500));
    let error = plugin_error(&network).await;
    assert!(matches!(error.fault, PluginFault::Hung { .. }), "{error}");
    network.teardown("s").await.unwrap();
    let calls = std::fs::read_to_string(calls).unwrap();
    assert_eq!(calls, "ADD eth0 kata-s\nDEL eth0 kata-s\n");
    assert_eq!(left(&directory), "");
}

#[tokio::test]
async fn what_was_added_is_deleted_when_a_later_plugin_fails() {
    if !on_its_own("what_was_added_is_deleted_when_a_later_plugin_fails") || !has_plugins() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    with_plugin(
        &directory,
        "bad",
        "[ $CNI_COMMAND = ADD ] || exit 0; exit 1",
    );
    let network = network(
        &directory,
        &bridge(directory.path(), r#", {"type": "bad"}"#),
    );
    let network = network.plugin_dir(directory.path().join("plugins"));
    let error = plugin_error(&network).await;
    assert_eq!(error.plugin, "bad");
    assert!(
        left(&directory).contains("10.7.0.2"),
        "the bridge gave nothing"
    );
    network.teardown("s").await.unwrap();
    assert_eq!(left(&directory), "");
}

#[tokio::test]
async fn a_set_up_that_is_given_up_is_torn_down() {
    if !on_its_own("a_set_up_that_is_given_up_is_torn_down") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let begun = directory.path().join("begun");
    run(&format!("mkfifo {}", begun.display()));
    let script = format!(
        "[ $CNI_COMMAND = ADD ] || exit 0; echo > {}; sleep 1000",
        begun.display()
    );
    let network = misbehaving(&directory, &script);
    let setting_up = tokio::spawn({
        let network = network.clone();
        async move { set_up(&network).await.map(drop) }
    });
    tokio::task::spawn_blocking(move || std::fs::read(begun).unwrap())
        .await
        .unwrap();
    setting_up.abort();
    assert!(setting_up.await.unwrap_err().is_cancelled());
    network.teardown("s").await.unwrap();
    assert_eq!(left(&directory), "");
}

#[tokio::test]
async fn an_address_that_two_interfaces_get_is_refused() {
    if !on_its_own("an_address_that_two_interfaces_get_is_refused") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let answer = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"}]}"#;
    with_plugin(
        &directory,
        "same",
        &format!("[ $CNI_COMMAND = ADD ] && echo '{answer}'"),
    );
    let network = network(&directory, r#"{"name": "a", "type": "same"}"#);
    let network = network
        .and_json(r#"{"name": "b", "type": "same"}"#)
        .unwrap();
    let network = network.plugin_dir(directory.path().join("plugins"));
    let error = plugin_error(&network).await;
    let twice = matches!(error.fault, PluginFault::DuplicateAddress(_));
    assert!(
        twice && error.network == "b" && error.interface == "eth1",
        "{error}"
    );
}

#[tokio::test]
async fn a_port_that_is_taken_is_told() {
    if !on_its_own("a_port_that_is_taken_is_told") || !has_plugins() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let _taken = std::net::TcpListener::bind("0.0.0.0:8088").unwrap();
    let network = network(&directory, &bridge(directory.path(), ""));
    let network = network.port_mapping(PortMapping::tcp(8088, 80));
    let error = set_up(&network).await.unwrap_err();
    assert!(error.to_string().contains("publish tcp port"), "{error}");
    assert_eq!(left(&directory), "");
}

#[tokio::test]
async fn a_family_that_the_host_has_not_is_told_by_the_plugin() {
    if !on_its_own("a_family_that_the_host_has_not_is_told_by_the_plugin") || !has_plugins() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    run(
        "mount -t proc proc /proc; for c in all default lo; do echo 1 > /proc/sys/net/ipv6/conf/$c/disable_ipv6; done",
    );
    let network = network(&directory, &bridge(directory.path(), ""));
    let outcome = set_up(&network).await;
    if let Err(error) = &outcome {
        assert!(
            error.to_string().contains("plugin bridge of network pods"),
            "{error}"
        );
    }
    drop(outcome);
    network.teardown("s").await.unwrap();
    assert_eq!(left(&directory), "");
}

#[tokio::test]
async fn version_1_1_plugins_are_asked_for_their_status_and_told_what_is_alive() {
    if !on_its_own("version_1_1_plugins_are_asked_for_their_status_and_told_what_is_alive") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let seen = directory.path().join("seen");
    let script = format!(
        "echo $CNI_COMMAND >> {seen}; case $CNI_COMMAND in
         GC) cat >> {seen};; STATUS) echo '{{\"code\": 50, \"msg\": \"not ready\"}}'; exit 1;;
         VERSION) echo '{{\"supportedVersions\": [\"1.1.0\"]}}';; ADD) echo '{{}}';; esac",
        seen = seen.display()
    );
    with_plugin(&directory, "new", &script);
    let network = network(
        &directory,
        r#"{"cniVersion": "1.1.0", "name": "n", "type": "new"}"#,
    );
    let network = network.plugin_dir(directory.path().join("plugins"));
    let error = network.status().await.unwrap_err();
    assert!(
        error.to_string().contains("STATUS: not ready (code 50)"),
        "{error}"
    );
    let versions = network.versions().await.unwrap();
    assert_eq!(versions, [("new".to_owned(), vec!["1.1.0".to_owned()])]);
    for sandbox in ["alive", "dead"] {
        network.setup(&SetupRequest::new(sandbox)).await.unwrap();
    }
    network.collect_garbage(&["alive"]).await.unwrap();
    let seen = std::fs::read_to_string(seen).unwrap();
    assert!(seen.contains("DEL\nGC\n"), "{seen}");
    assert!(
        seen.contains(r#"[{"containerID":"kata-alive","ifname":"eth0"}]"#),
        "{seen}"
    );
    network.teardown("alive").await.unwrap();
    assert_eq!(left(&directory), "");
}

/// The middle of some durations.
fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

#[tokio::test]
#[ignore = "a figure, for a quiet machine"]
async fn a_set_up_takes_little_longer_than_its_plugins() {
    if !on_its_own("a_set_up_takes_little_longer_than_its_plugins") || !has_plugins() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let text = bridge(directory.path(), "");
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut plugin = list["plugins"][0].clone();
    plugin["cniVersion"] = "1.0.0".into();
    plugin["name"] = "pods".into();
    let input = directory.path().join("input");
    std::fs::write(&input, plugin.to_string()).unwrap();
    let by_hand = |command: &str| {
        let began = std::time::Instant::now();
        let input = input.display();
        run(&format!(
            "CNI_COMMAND={command} CNI_CONTAINERID=hand CNI_NETNS=/run/netns/hand CNI_IFNAME=eth0 \
             CNI_PATH=/usr/lib/cni exec /usr/lib/cni/bridge < {input}"
        ));
        began.elapsed()
    };
    let network = network(&directory, &text);
    let (mut plugins, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..11 {
        run("ip netns add hand");
        plugins.push(by_hand("ADD"));
        by_hand("DEL");
        run("ip netns del hand");
        let began = std::time::Instant::now();
        let lease = set_up(&network).await.unwrap();
        ours.push(began.elapsed());
        drop(lease);
        network.teardown("s").await.unwrap();
    }
    let (plugins, ours) = (median(plugins), median(ours));
    println!("bridge by hand {plugins:?}, set-up with namespace, taps and filters {ours:?}");
    assert!(
        ours < plugins + Duration::from_millis(10),
        "it takes longer"
    );
}
