//! From the call, and from the start of a process, to a guest's first byte.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kata_sandbox::hypervisor::kvm::{Guests, Kvm};
use kata_sandbox::hypervisor::qemu::Qemu;
use kata_sandbox::hypervisor::{Acceleration, Hypervisor, StopMode};

use super::machine::Place;
use super::monitors::Monitor;
use super::{MEMORY, Outcome, bare, median, payload};
use crate::table::{Bar, Table};

/// Rounds of the quick ones, and of those that start a program.
const CALLS: usize = 30;
const PROCESSES: usize = 11;
/// What the issue wants of a call, in milliseconds.
const CALL: f64 = 2.0;

/// The argument by which this program is one that embeds the backend.
pub(crate) const ARGUMENT: &str = "first-byte";

/// All of these figures.
pub(super) async fn measure(table: &mut Table) -> Outcome {
    let directory = tempfile::Builder::new().prefix("kata-fb-").tempdir()?;
    let payload = payload::write(directory.path())?;
    calls(directory.path(), &payload, table).await?;
    processes(directory.path(), &payload, table).await
}

/// In a program that runs already, in turns with the floor and with QEMU.
async fn calls(directory: &Path, payload: &Path, table: &mut Table) -> Outcome {
    let kvm = Kvm::new().guests(Guests::Any);
    let qemu = Qemu::new();
    let has_qemu = qemu.probe().await.is_usable();
    let mut place = Place::new(&directory.join("c"), payload, MEMORY)?;
    let memory = usize::try_from(MEMORY << 20)?;
    let (mut ours, mut floor, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    let mut phases = Vec::new();
    // One round to warm up: the probe, what is known of the kernel, caches.
    for round in 0..=CALLS {
        let bare = bare::first_byte(memory)?;
        let (took, told) = call(&kvm, &mut place).await?;
        if round > 0 {
            floor.push(bare);
            ours.push(took);
            phases = told;
        }
        if has_qemu && round <= PROCESSES {
            theirs.push(call(&qemu, &mut place).await?.0);
        }
    }
    println!("the last of {CALLS} calls, phase by phase");
    for (name, took) in phases {
        println!("{name:24} {took:>10.2?}");
    }
    let (ours, floor) = (median(ours), median(floor));
    let limit = (CALL, format!("{CALL:.1} ms"));
    table.add(
        "kvm: call to first byte / 2 ms",
        ours.clone(),
        limit,
        Bar::AtMost(1.0),
    );
    let name = "kvm: call to first byte / a bare KVM monitor without devices";
    table.add(name, ours.clone(), floor, Bar::AtMost(4.0));
    if has_qemu {
        let name = "kvm: call to first byte / QEMU microvm with the same devices";
        table.add(name, ours, median(theirs), Bar::AtMost(0.1));
    } else {
        println!("skipped: QEMU is not usable here");
    }
    Ok(())
}

type Phases = Vec<(&'static str, Duration)>;

/// One machine, from the call to its byte; the rest of its life is not counted.
async fn call(hypervisor: &dyn Hypervisor, place: &mut Place) -> Outcome<(Duration, Phases)> {
    let config = place.machine()?;
    let began = Instant::now();
    let vm = hypervisor.create(config).await?;
    vm.start().await?;
    vm.wait().await?;
    vm.stop(StopMode::Kill).await?;
    let phases = vm.phases();
    let first = phases
        .iter()
        .find(|phase| phase.name == "first console byte");
    let first = first.ok_or("the guest said nothing")?;
    let at = (first.began + first.took).saturating_duration_since(began);
    let told = phases.iter().map(|phase| (phase.name, phase.took));
    Ok((at, told.collect()))
}

/// From starting a program that embeds the backend, with all devices, against
/// other monitors with a serial port alone.
async fn processes(directory: &Path, payload: &Path, table: &mut Table) -> Outcome {
    let probe = Qemu::new().probe().await;
    let accelerator = match probe.acceleration {
        Some(Acceleration::Kvm) => "kvm",
        _ => "tcg",
    };
    let mut others = Vec::new();
    others.extend(Monitor::qemu(payload, MEMORY, accelerator));
    others.extend(Monitor::firecracker(payload, MEMORY, directory)?);
    others.extend(Monitor::cloud_hypervisor(payload, MEMORY));
    let mut times = vec![Vec::new(); others.len()];
    let mut ours = Vec::new();
    for round in 0..=PROCESSES {
        let own = ours_as_a_process(payload, &directory.join(format!("p{round}")))?;
        let took = own.first_byte()?;
        if round > 0 {
            ours.push(took);
        }
        for (other, times) in others.iter().zip(&mut times) {
            let took = other.first_byte()?;
            if round > 0 {
                times.push(took);
            }
        }
    }
    let ours = median(ours);
    println!("process start to first byte took {}", ours.1);
    for (other, times) in others.iter().zip(times) {
        let (name, bar) = match other.name {
            "Firecracker" => ("kvm: process start to first byte / Firecracker", 0.5),
            "Cloud Hypervisor" => ("kvm: process start to first byte / Cloud Hypervisor", 0.6),
            _ => ("kvm: process start to first byte / QEMU microvm", 0.25),
        };
        table.add(name, ours.clone(), median(times), Bar::AtMost(bar));
    }
    Ok(())
}

fn ours_as_a_process(payload: &Path, directory: &Path) -> std::io::Result<Monitor> {
    let own = std::env::current_exe()?;
    let paths = [payload, directory].map(|path| path.display().to_string());
    let arguments = std::iter::once(ARGUMENT.to_owned()).chain(paths);
    Ok(Monitor::new("this backend", own, arguments.collect()))
}

/// The program that is measured: one machine, and its console on standard output.
pub(crate) async fn embedder(mut arguments: impl Iterator<Item = PathBuf>) -> Outcome {
    use std::io::Write as _;
    let (payload, directory) = (arguments.next(), arguments.next());
    let payload = payload.ok_or("no payload")?;
    let mut place = Place::new(&directory.ok_or("no directory")?, &payload, MEMORY)?;
    let kvm = Kvm::new().guests(Guests::Any);
    let vm = kvm.create(place.machine()?).await?;
    vm.start().await?;
    vm.wait().await?;
    std::io::stdout().write_all(&vm.console_tail())?;
    std::io::stdout().flush()?;
    vm.stop(StopMode::Kill).await?;
    Ok(())
}
