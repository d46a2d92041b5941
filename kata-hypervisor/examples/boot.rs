//! Boots the conformance suite's guest some times and prints how long each
//! phase took at best and in the middle.
//!
//! `KATA_TEST_KERNEL=vmlinux cargo run --release -p kata-hypervisor --all-features --example boot`

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kata_hypervisor::StopMode;
use kata_hypervisor::conformance::{Guest, Machine, Subject};
use kata_hypervisor::qemu::Qemu;

const TIMES: usize = 10;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), String> {
    let subject = Subject::new(Qemu::new(), Guest::from_environment()?);
    // The probe and the page cache are warm in a program that makes machines.
    boot(&subject).await;
    let mut figures: BTreeMap<&'static str, Vec<Duration>> = BTreeMap::new();
    for _ in 0..TIMES {
        for (name, took) in boot(&subject).await {
            figures.entry(name).or_default().push(took);
        }
    }
    println!("{:24} {:>10} {:>10}", "phase", "best", "median");
    for (name, mut took) in figures {
        took.sort();
        println!(
            "{name:24} {:>10.2?} {:>10.2?}",
            took[0],
            took[took.len() / 2]
        );
    }
    Ok(())
}

async fn boot(subject: &Subject) -> Vec<(&'static str, Duration)> {
    let began = Instant::now();
    let machine = Machine::boot(subject).await;
    let total = began.elapsed();
    let mut phases: Vec<_> = machine.phases().iter().map(|p| (p.name, p.took)).collect();
    phases.push(("(all, to guest up)", total));
    let stopping = Instant::now();
    let _ = machine.stop(StopMode::Kill).await;
    phases.push(("(stop)", stopping.elapsed()));
    phases
}
