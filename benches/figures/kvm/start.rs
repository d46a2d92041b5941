//! From `start()` to the agent's hello, against QEMU's `microvm` with KVM:
//! `make bench-nested FIGURES=hello`.

use std::path::Path;
use std::time::Duration;

use kata_sandbox::hypervisor::kvm::Kvm;
use kata_sandbox::hypervisor::qemu::Qemu;
use kata_sandbox::hypervisor::{Acceleration, Hypervisor};
use kata_sandbox::{MemorySize, Runtime};

use super::{MEMORY, Outcome, median};
use crate::Kit;
use crate::table::{Bar, Table};

const ROUNDS: usize = 5;
/// The phase at whose end the agent has said hello.
const HELLO: &str = "guest boot";

/// The figure, where KVM runs stock kernels.
pub(crate) async fn measure(kit: &Kit, table: &mut Table) -> Outcome {
    for probe in [Kvm::new().probe().await, Qemu::new().probe().await] {
        if probe.acceleration != Some(Acceleration::Kvm) {
            for finding in probe.findings {
                println!("skipped: start to hello, which needs KVM: {finding}");
            }
            println!("`make bench-nested` measures it in a machine that has it");
            return Ok(());
        }
    }
    let state = tempfile::Builder::new().prefix("kata-bench-").tempdir()?;
    let here = runtime(kit, &state.path().join("k"), Kvm::new())?;
    let there = runtime(kit, &state.path().join("q"), Qemu::new())?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // One round to warm up: page cache, probe, checksums.
    for round in 0..=ROUNDS {
        let (own, other) = (hello(&here).await?, hello(&there).await?);
        if round > 0 {
            ours.push(own);
            theirs.push(other);
        }
    }
    let name = "kvm: start() to agent hello / QEMU microvm with KVM";
    table.add(name, median(ours), median(theirs), Bar::AtMost(0.6));
    Ok(())
}

fn runtime(kit: &Kit, state: &Path, hypervisor: impl Hypervisor) -> Outcome<Runtime> {
    let builder = Runtime::builder().state_dir(state).guest_image(&kit.image);
    Ok(builder.hypervisor(hypervisor).build()?)
}

async fn hello(runtime: &Runtime) -> Outcome<Duration> {
    let builder = runtime.sandbox("hello").memory(MemorySize::mib(MEMORY));
    let sandbox = builder
        .boot_timeout(Duration::from_secs(120))
        .start()
        .await?;
    let phases = sandbox.timeline().phases();
    let boot = phases.iter().find(|phase| phase.name == HELLO);
    let boot = boot.ok_or("the timeline has no boot")?;
    let took = boot.offset + boot.took;
    sandbox.stop(Duration::ZERO).await?;
    sandbox.delete().await?;
    Ok(took)
}
