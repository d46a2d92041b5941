//! QEMU apart from its host.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use common::network::{on_its_own, run};
use common::{Host, sh, text};
use kata_sandbox::hypervisor::qemu::{Confinement, Qemu};
use kata_sandbox::{Container, ErrorKind, Sandbox};

/// How long a boot may take on a busy host.
const PATIENCE: Duration = Duration::from_secs(180);
const NOBODY: u32 = 65534;

/// The id of this process's QEMU; there is one.
fn qemu() -> u32 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let children = tasks.flat_map(|task| {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let ids = list.split_whitespace().map(|id| id.parse::<u32>().unwrap());
        ids.collect::<Vec<_>>()
    });
    let mut found = children.filter(|child| {
        let name = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
        name.starts_with("qemu")
    });
    found.next().unwrap()
}

/// The namespaces of a process, by kind.
fn namespaces(process: &str) -> BTreeMap<&'static str, String> {
    let kinds = ["ipc", "mnt", "net", "uts"];
    let of = |kind| {
        let link = std::fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap();
        (kind, link.display().to_string())
    };
    kinds.into_iter().map(of).collect()
}

async fn start(host: &Host, confinement: Confinement, disk: Option<&Path>) -> (Sandbox, Container) {
    let hypervisor = Qemu::new().confinement(confinement);
    let runtime = host.builder().hypervisor(hypervisor).build().unwrap();
    let mut builder = runtime.sandbox("confined").boot_timeout(PATIENCE);
    if let Some(disk) = disk {
        builder = builder.disk(disk, false);
    }
    let sandbox = builder.start().await.unwrap();
    let container = host.sleeper(&sandbox, "c").await;
    (sandbox, container)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_of_root_is_in_namespaces_of_its_own_and_writes_to_its_disks_alone() {
    let Some(host) = Host::new() else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root makes namespaces");
        return;
    }
    let disk = host.directory.path().join("disk");
    std::fs::write(&disk, [0; 1 << 16]).unwrap();
    let (sandbox, container) = start(&host, Confinement::default(), Some(&disk)).await;
    let (own, theirs) = (namespaces("self"), namespaces(&qemu().to_string()));
    for (kind, own) in &own {
        assert_ne!(theirs[kind], *own, "{kind}");
    }
    let mounts = std::fs::read_to_string(format!("/proc/{}/mounts", qemu())).unwrap();
    let options = |line: &str| {
        let fields: Vec<_> = line.split(' ').collect();
        (fields[1].to_owned(), fields[3].starts_with("ro"))
    };
    let disk = disk.canonicalize().unwrap().display().to_string();
    for (place, read_only) in mounts.lines().map(options) {
        assert_eq!(read_only, place != disk, "{place}");
    }
    let devices = std::fs::read_to_string(format!("/proc/{}/net/dev", qemu())).unwrap();
    assert_eq!(devices.lines().count(), 3, "loopback alone: {devices}");
    assert_eq!(text(&sh(&container, "echo works").await.stdout), "works\n");
    sandbox.delete().await.unwrap();

    let (sandbox, _container) = start(&host, Confinement::none(), None).await;
    assert_eq!(namespaces(&qemu().to_string()), own);
    sandbox.delete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_may_run_as_nobody() {
    let Some(host) = Host::new() else { return };
    let confinement = Confinement::required().user(NOBODY, NOBODY);
    if !rustix::process::geteuid().is_root() {
        let hypervisor = Qemu::new().confinement(confinement);
        let runtime = host.builder().hypervisor(hypervisor).build().unwrap();
        let error = runtime.sandbox("a").start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:#}");
        return;
    }
    let (sandbox, container) = start(&host, confinement, None).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", qemu())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let nobody = [NOBODY.to_string().as_str(); 4].join(" ");
    assert_eq!((field("Uid:"), field("Gid:")), (nobody.clone(), nobody));
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(text(&sh(&container, "echo works").await.stdout), "works\n");
    // And it ends as any other.
    let stats = sandbox.stats().await.unwrap();
    drop(stats);
    sandbox.delete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_keeps_no_namespace_of_others_busy() {
    if !on_its_own("a_machine_keeps_no_namespace_of_others_busy") {
        return;
    }
    let Some(host) = Host::new() else { return };
    // One on a mount that is passed on, as ip(8) makes it, and one that is not.
    let alone = host.directory.path().join("alone").display().to_string();
    run(&format!(
        "ip netns add named; touch {alone}; mount --bind /proc/self/ns/net {alone}"
    ));
    let (sandbox, _container) = start(&host, Confinement::default(), None).await;
    run("ip netns del named");
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", qemu())).unwrap();
    run(&format!("umount {alone}"));
    assert!(!mounts.contains(" nsfs "), "{mounts}");
    sandbox.delete().await.unwrap();
}
