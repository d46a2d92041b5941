//! The in-process backend against the conformance suite. It takes a KVM that
//! runs stock kernels; `make test-nested` provides one.
#![cfg(all(feature = "kvm", feature = "conformance", target_arch = "x86_64"))]

use std::sync::OnceLock;

use kata_hypervisor::Hypervisor;
use kata_hypervisor::conformance::{self, Guest, Subject};
use kata_hypervisor::kvm::{CpuModel, Kvm, MemoryBacking};

/// Why this host does not run stock kernels, if it does not.
fn obstacle() -> Option<String> {
    static LOOKED: OnceLock<Option<String>> = OnceLock::new();
    let look = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let probe = runtime.expect("a runtime").block_on(Kvm::new().probe());
        let findings = probe.findings.iter().map(ToString::to_string);
        (!probe.is_usable()).then(|| findings.collect::<Vec<_>>().join("; "))
    };
    // Tests have a runtime of their own, in which another must not block.
    let looked = LOOKED.get_or_init(|| std::thread::spawn(look).join().expect("no panic"));
    looked.clone()
}

fn subject_of(kvm: Kvm) -> Result<Subject, String> {
    if let Some(obstacle) = obstacle() {
        return Err(obstacle);
    }
    let guest = Guest::from_environment()?;
    Ok(Subject::new(kvm, guest).broken(Kvm::new().device("/nonexistent/kvm")))
}

fn subject() -> Result<Subject, String> {
    subject_of(Kvm::new())
}

kata_hypervisor::conformance_suite!(subject);

/// Boots with these settings, as a case of its own.
macro_rules! boots {
    ($($name:ident: $kvm:expr, $vcpus:expr;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                match subject_of($kvm) {
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
