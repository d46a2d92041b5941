//! Measures, in turns, how long it takes from the call to the first byte that a
//! guest of one instruction or two writes to its console: here, and with QEMU.
//!
//! `cargo run --release -p kata-hypervisor --all-features --example first_byte`
#![expect(clippy::unwrap_used, reason = "a measurement fails by panicking")]

#[path = "../tests/payload/mod.rs"]
mod payload;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use kata_hypervisor::kvm::{Guests, Kvm};
use kata_hypervisor::qemu::Qemu;
use kata_hypervisor::{
    Devices, Hypervisor, KernelCommandLine, MachineSize, MemorySize, StopMode, VmConfig,
};
use payload::{DATA, Payload};

const TIMES: usize = 30;

type Figures = BTreeMap<(&'static str, &'static str), Vec<Duration>>;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let directory = tempfile::tempdir().unwrap();
    let guest = Payload::default().data(DATA, *b"x").show(DATA, 1).reset();
    let kernel = guest.build(directory.path());
    let kvm = Kvm::new().guests(Guests::Any);
    let qemu = Qemu::new();
    let hypervisors: [&dyn Hypervisor; 2] = [&kvm, &qemu];
    let mut figures = Figures::new();
    for turn in 0..=TIMES {
        for hypervisor in hypervisors {
            if !hypervisor.probe().await.is_usable() {
                continue;
            }
            let run_dir = directory
                .path()
                .join(format!("{}{turn}", hypervisor.name()));
            std::fs::create_dir(&run_dir).unwrap();
            let measured = measure(hypervisor, config(&kernel, &run_dir)).await;
            // The first of each makes the caches warm.
            for (what, took) in measured.into_iter().filter(|_| turn > 0) {
                figures
                    .entry((hypervisor.name(), what))
                    .or_default()
                    .push(took);
            }
        }
    }
    println!("{:5} {:24} {:>10} {:>10}", "", "", "best", "median");
    for ((hypervisor, what), mut took) in figures {
        took.sort();
        let (best, median) = (took[0], took[took.len() / 2]);
        println!("{hypervisor:5} {what:24} {best:>10.2?} {median:>10.2?}");
    }
}

fn config(kernel: &Path, run_dir: &Path) -> VmConfig {
    let memory = MemorySize::mib(128);
    VmConfig {
        id: "first-byte".to_owned(),
        run_dir: run_dir.to_owned(),
        size: MachineSize {
            vcpus: 1,
            max_vcpus: 1,
            memory,
            max_memory: memory,
        },
        kernel: kernel.to_owned(),
        initramfs: None,
        command_line: KernelCommandLine::new(),
        devices: Devices::default(),
        cgroup: Vec::new(),
        start_deadline: Duration::from_secs(60),
    }
}

async fn measure(hypervisor: &dyn Hypervisor, config: VmConfig) -> Vec<(&'static str, Duration)> {
    let began = Instant::now();
    let vm = hypervisor.create(config).await.unwrap();
    vm.start().await.unwrap();
    // The guest resets its machine right after its first byte.
    vm.wait().await.unwrap();
    let whole = began.elapsed();
    let stopping = Instant::now();
    vm.stop(StopMode::Kill).await.unwrap();
    let stopped = stopping.elapsed();
    let phases = vm.phases();
    let mut measured: Vec<_> = phases
        .iter()
        .map(|phase| (phase.name, phase.took))
        .collect();
    let first = phases
        .iter()
        .find(|phase| phase.name == "first console byte");
    if let Some(first) = first {
        let at = first.began + first.took;
        measured.push(("= call to first byte", at.saturating_duration_since(began)));
    }
    measured.push(("= call to reset", whole));
    measured.push(("= stop", stopped));
    measured
}
