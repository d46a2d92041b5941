//! Machines that grow with the sum of their containers' limits.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Host, sh, text};
use kata_sandbox::{Container, ContainerSpec, MemorySize, SandboxBuilder};

/// How long a boot may take on a busy host.
const PATIENCE: Duration = Duration::from_secs(180);

/// Processors and memory in MiB, as a program in the container sees them.
async fn seen(container: &Container) -> (u32, u64) {
    let script = "nproc; awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo";
    let said = text(&sh(container, script).await.stdout);
    let mut numbers = said.lines();
    let mut next = || numbers.next().unwrap().to_owned();
    (next().parse().unwrap(), next().parse().unwrap())
}

fn limited(host: &Host, name: &str, cpus: f64, memory: u64) -> ContainerSpec {
    let spec = host.spec(&host.rootfs(name), "exec sleep 100000");
    spec.cpus(cpus).memory(MemorySize::mib(memory))
}

fn small(builder: SandboxBuilder) -> SandboxBuilder {
    let builder = builder.vcpus(1).memory(MemorySize::mib(160));
    builder.boot_timeout(PATIENCE)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_grows_when_a_pods_limits_together_ask_for_it() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let builder = small(runtime.sandbox("pod")).max_vcpus(4);
    let sandbox = builder.max_memory(MemorySize::mib(1024));
    let sandbox = sandbox.start().await.unwrap();
    let first = sandbox.container("first", limited(&host, "first", 1.0, 16));
    let first = first.await.unwrap();
    first.start().await.unwrap();
    let (processors, memory) = seen(&first).await;
    assert_eq!(processors, 1, "one is enough for the first");

    // Two at once: each of them alone would ask for less than both.
    let (second, third) = tokio::join!(
        sandbox.container("second", limited(&host, "second", 1.5, 128)),
        sandbox.container("third", limited(&host, "third", 0.5, 64)),
    );
    let (second, third) = (second.unwrap(), third.unwrap());
    let (grown, more) = seen(&first).await;
    assert_eq!(grown, 3, "1 + 1.5 + 0.5 processors");
    // 16 + 128 + 64 MiB, and the guest's own 128, where there were 160.
    assert!(more >= memory + 160, "{memory} to {more} MiB");

    // What is there, stays; and the next needs no more of it.
    second.delete().await.unwrap();
    third.delete().await.unwrap();
    let fourth = sandbox.container("fourth", limited(&host, "fourth", 1.0, 64));
    fourth.await.unwrap();
    assert_eq!(seen(&first).await.0, 3);
    // More than there may ever be is as much as there may be.
    let fifth = sandbox.container("fifth", limited(&host, "fifth", 9.0, 64));
    fifth.await.unwrap();
    assert_eq!(seen(&first).await.0, 4);
    sandbox.delete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_cannot_grow_runs_its_containers_all_the_same() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let sandbox = small(runtime.sandbox("fixed")).start().await.unwrap();
    let large = sandbox.container("large", limited(&host, "large", 3.0, 512));
    let large = large.await.unwrap();
    large.start().await.unwrap();
    let (processors, memory) = seen(&large).await;
    assert_eq!(processors, 1);
    assert!(memory < 160, "{memory} MiB");
    assert_eq!(text(&sh(&large, "echo works").await.stdout), "works\n");
    sandbox.delete().await.unwrap();
}
