//! Sandboxes in this process. They take a KVM that runs stock kernels, which
//! `make test-nested` provides.
#![cfg(all(feature = "kvm", feature = "qemu", target_arch = "x86_64"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::{Host, leftovers::Census, sh, text};
use kata_sandbox::hypervisor::Hypervisor;
use kata_sandbox::hypervisor::kvm::Kvm;
use kata_sandbox::hypervisor::qemu::Qemu;
use kata_sandbox::{MemorySize, Runtime};

/// A host whose KVM runs stock kernels; `None`, aloud, on another.
async fn capable() -> Option<Host> {
    let probe = Kvm::new().probe().await;
    if !probe.is_usable() {
        let findings: Vec<_> = probe.findings.iter().map(ToString::to_string).collect();
        eprintln!("skipped: {}", findings.join("; "));
        return None;
    }
    Host::new()
}

/// How many programs this one has started and not yet seen end.
fn children() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .map(|task| task.unwrap().path().join("children"))
        .map(|path| std::fs::read_to_string(path).unwrap_or_default())
        .map(|line| line.split_whitespace().count())
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_runs_in_this_process_and_leaves_nothing() {
    let Some(host) = capable().await else { return };
    let before = Census::take(&host.state_dir());
    // With nothing said, this backend is the best of those built in.
    let runtime = host.runtime();
    let sandbox = host.start(&runtime, "inside").await;
    assert_eq!(children(), 0, "no program was started");
    println!("{}", sandbox.timeline());

    let container = host.sleeper(&sandbox, "c").await;
    let output = sh(&container, "echo out; echo err >&2; exit 7").await;
    assert_eq!(text(&output.stdout), "out\n");
    assert_eq!(text(&output.stderr), "err\n");
    let written = sh(&container, "echo shared > /data/f && cat /data/f").await;
    assert_eq!(text(&written.stdout), "shared\n");
    let shared = host.directory.path().join("inside-c/data/f");
    assert_eq!(std::fs::read_to_string(shared).unwrap(), "shared\n");

    sandbox.stop(Duration::from_secs(1)).await.unwrap();
    sandbox.delete().await.unwrap();
    drop((container, runtime));
    before.assert_same_soon(&host.state_dir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_that_is_to_grow_is_refused_by_name_and_taken_elsewhere() {
    let Some(host) = capable().await else { return };
    let runtime = host.runtime();
    let growing = || {
        let builder = runtime.sandbox("grows").memory(MemorySize::mib(128));
        builder.max_memory(MemorySize::mib(256))
    };
    let error = growing().hypervisor("kvm").start().await.unwrap_err();
    assert!(format!("{error:#}").contains("grow"), "{error:#}");
}

/// How long a sandbox takes to be ready, at best of three.
async fn start_time(host: &Host, runtime: &Runtime) -> Duration {
    let mut best = Duration::MAX;
    for turn in 0..3 {
        let began = Instant::now();
        let sandbox = host.start(runtime, &format!("race{turn}")).await;
        best = best.min(began.elapsed());
        println!("{}", sandbox.timeline());
        sandbox.stop(Duration::ZERO).await.unwrap();
        sandbox.delete().await.unwrap();
    }
    best
}

/// The figure of the documentation; of no emulated host should it be demanded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_here_is_no_slower_than_with_qemu() {
    let Some(host) = capable().await else { return };
    // A program that is read for the first time may be late; then it is warm.
    let asked = [Qemu::new().probe().await, Qemu::new().probe().await];
    if !asked[1].is_usable() {
        return eprintln!("skipped: {:?}", asked[1].findings);
    }
    let here = host.builder().hypervisor(Kvm::new()).build().unwrap();
    let here = start_time(&host, &here).await;
    let qemu = host.builder().hypervisor(Qemu::new());
    let qemu = qemu.state_dir(host.directory.path().join("q"));
    let qemu = start_time(&host, &qemu.build().unwrap()).await;
    let ratio = here.as_secs_f64() / qemu.as_secs_f64();
    println!("start to ready: {here:.2?} here, {qemu:.2?} with QEMU, ratio {ratio:.2}");
    // Beside other work, an emulated processor is no stopwatch.
    assert!(ratio < 1.5, "{here:?} here, {qemu:?} with QEMU");
}
