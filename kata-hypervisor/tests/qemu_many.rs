//! Twenty machines at once from one process, and nothing of them afterwards.
#![cfg(all(feature = "qemu", feature = "conformance"))]

use std::fs;
use std::time::{Duration, Instant};

use kata_hypervisor::conformance::{Guest, Machine, Subject};
use kata_hypervisor::qemu::Qemu;
use kata_hypervisor::{StopMode, VmExit};

const MACHINES: usize = 20;

/// Threads of this process that serve machines.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("proc is mounted");
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with("vmm-") || name.starts_with("kata-"))
        .collect()
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd")
        .expect("proc is mounted")
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_machines_run_at_once_and_leave_nothing() {
    let guest = match Guest::from_environment() {
        Ok(guest) => guest,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let subject = Subject::new(Qemu::new(), guest);
    // What a first machine makes once for all is no leak.
    let first = Machine::boot(&subject).await;
    first.stop(StopMode::Kill).await.expect("stop");
    drop(first);
    let before = descriptors();

    let boots: Vec<_> = (0..MACHINES)
        .map(|_| {
            let subject = subject.clone();
            tokio::spawn(async move { Machine::boot(&subject).await })
        })
        .collect();
    let mut machines = Vec::new();
    for boot in boots {
        machines.push(boot.await.expect("it boots"));
    }
    for machine in &machines {
        let exit = machine.stop(StopMode::Kill).await.expect("stop");
        assert_eq!(exit, VmExit::Killed);
    }
    drop(machines);
    // Threads and tasks that have been told to end take a moment to be gone.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !threads().is_empty() || descriptors() > before {
        assert!(
            Instant::now() < deadline,
            "threads {:?}; {before} descriptors before, {} after",
            threads(),
            descriptors()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
