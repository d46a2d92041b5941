//! What each machine adds to the memory of the program that embeds it.

use std::time::Duration;

use kata_sandbox::hypervisor::kvm::{Guests, Kvm};
use kata_sandbox::hypervisor::{Hypervisor, StopMode, Vm};

use super::machine::Place;
use super::{MEMORY, Outcome, payload};
use crate::host::{mib, pss_beside_memory};
use crate::table::{Bar, Table};

const MACHINES: u32 = 8;
const LIMIT: u64 = 2 << 20;

/// Some machines that have booted and stand still, against the process before.
pub(super) async fn measure(table: &mut Table) -> Outcome {
    let directory = tempfile::Builder::new().prefix("kata-fp-").tempdir()?;
    let payload = payload::write_halting(directory.path())?;
    let kvm = Kvm::new().guests(Guests::Any);
    let mut place = Place::new(&directory.path().join("m"), &payload, MEMORY)?;
    // The first one brings what all share: code, tables, the allocator's arenas.
    let mut vms = vec![started(&kvm, &mut place).await?];
    let before = pss_beside_memory(std::process::id())?;
    for _ in 0..MACHINES {
        vms.push(started(&kvm, &mut place).await?);
    }
    let after = pss_beside_memory(std::process::id())?;
    let usage = vms[0].usage().await?;
    println!(
        "a machine's own count of its overhead: {}",
        bytes(usage.overhead).1
    );
    for vm in vms {
        vm.stop(StopMode::Kill).await?;
    }
    let each = after.saturating_sub(before) / u64::from(MACHINES);
    let name = "kvm: what a machine adds to its embedder beside guest memory (PSS)";
    table.add(name, bytes(each), bytes(LIMIT), Bar::AtMost(1.0));
    Ok(())
}

async fn started(kvm: &Kvm, place: &mut Place) -> Outcome<Box<dyn Vm>> {
    let vm = kvm.create(place.machine()?).await?;
    vm.start().await?;
    spoken(&*vm).await?;
    Ok(vm)
}

/// Waits until the guest has written its byte.
async fn spoken(vm: &dyn Vm) -> Outcome {
    let spoken = async {
        while vm.console_tail().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    Ok(tokio::time::timeout(Duration::from_secs(60), spoken).await?)
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn bytes(bytes: u64) -> (f64, String) {
    (bytes as f64, mib(bytes as f64))
}
