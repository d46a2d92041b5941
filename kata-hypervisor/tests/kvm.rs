//! The in-process backend against the conformance suite. It takes a KVM that
//! runs stock kernels; `make test-nested` provides one.
#![cfg(all(feature = "kvm", feature = "conformance", target_arch = "x86_64"))]

#[path = "payload/stock.rs"]
mod stock;

use kata_hypervisor::conformance::{self, Subject};
use kata_hypervisor::kvm::{CpuModel, Kvm, MemoryBacking};

fn subject() -> Result<Subject, String> {
    stock::subject(Kvm::new())
}

kata_hypervisor::conformance_suite!(subject);

/// Boots with these settings, as a case of its own.
macro_rules! boots {
    ($($name:ident: $kvm:expr, $vcpus:expr;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                match stock::subject($kvm) {
                    Ok(subject) => {
                        let subject = subject.vcpus($vcpus);
                        conformance::a_machine_boots_and_is_accounted_for(&subject).await;
                    }
                    Err(reason) => eprintln!("skipped: {reason}"),
                }
            }
        )*
    };
}

boots! {
    two_processors_boot: Kvm::new().pin_vcpus([0]), 2;
    the_baseline_processor_boots: Kvm::new().cpu_model(CpuModel::Baseline), 1;
    private_memory_filled_beforehand_boots:
        Kvm::new().memory_backing(MemoryBacking::Private).prefault(true), 1;
}
