//! The in-process backend: `make bench FIGURES=kvm`.

mod bare;
mod first_byte;
mod footprint;
mod machine;
mod monitors;
mod payload;
mod start;
mod throughput;
mod wire;

use std::time::Duration;

use kata_sandbox::hypervisor::Hypervisor as _;
use kata_sandbox::hypervisor::kvm::{Guests, Kvm};

use crate::Kit;
use crate::table::Table;

pub(crate) use first_byte::{ARGUMENT, embedder};

pub(crate) type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Memory of the guests, in mebibytes.
const MEMORY: u64 = 128;

/// What needs KVM, but no stock kernel.
pub(crate) async fn kvm(table: &mut Table) -> Outcome {
    let probe = Kvm::new().guests(Guests::Any).probe().await;
    if !probe.is_usable() {
        for finding in probe.findings {
            println!("skipped: the figures of kvm: {finding}");
        }
        return Ok(());
    }
    first_byte::measure(table).await?;
    footprint::measure(table).await
}

/// What needs a guest with a stock kernel.
pub(crate) async fn hello(kit: &Kit, table: &mut Table) -> Outcome {
    start::measure(kit, table).await
}

/// What devices do in a second.
pub(crate) async fn io(kit: &Kit, table: &mut Table) -> Outcome {
    throughput::measure(kit, table).await
}

fn median(mut times: Vec<Duration>) -> (f64, String) {
    times.sort_unstable();
    let millis = times[times.len() / 2].as_secs_f64() * 1000.0;
    (millis, format!("{millis:.2} ms"))
}
