//! The in-process backend with its devices on a PCI bus against the cases of the
//! conformance suite that touch devices. They take a KVM that runs stock kernels;
//! `make test-nested` provides one.
#![cfg(all(feature = "kvm", feature = "conformance", target_arch = "x86_64"))]

#[path = "payload/stock.rs"]
mod stock;

use kata_hypervisor::conformance;
use kata_hypervisor::kvm::{Kvm, Transports};

/// Makes a test of each case.
macro_rules! cases {
    ($($case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let kvm = Kvm::new().transports(Transports::Pci);
                match stock::subject(kvm) {
                    Ok(subject) => conformance::$case(&subject.vcpus(2)).await,
                    Err(reason) => eprintln!("skipped: {reason}"),
                }
            }
        )*
    };
}

cases! {
    a_machine_boots_and_is_accounted_for,
    a_stream_carries_much_both_ways,
    shared_directories_are_read_by_the_guest,
    a_disk_is_read_and_written_by_the_guest,
    a_console_carries_words_both_ways,
    a_balloon_takes_memory_and_gives_it_back,
    a_paused_guest_stands_still,
    a_panic_is_reported_with_its_message,
    a_guest_that_ends_itself_is_reported,
    a_dropped_machine_leaves_nothing,
}
