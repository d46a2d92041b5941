//! The QEMU backend against the conformance suite.
#![cfg(all(feature = "qemu", feature = "conformance"))]

use kata_hypervisor::conformance::{Guest, Subject};
use kata_hypervisor::qemu::Qemu;

fn subject() -> Result<Subject, String> {
    let guest = Guest::from_environment()?;
    Ok(Subject::new(Qemu::new(), guest).broken(Qemu::new().binary("/nonexistent/qemu")))
}

kata_hypervisor::conformance_suite!(subject);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processors_boot() {
    match subject() {
        Ok(subject) => {
            let subject = subject.vcpus(2);
            kata_hypervisor::conformance::a_machine_boots_and_is_accounted_for(&subject).await;
        }
        Err(reason) => eprintln!("skipped: {reason}"),
    }
}
