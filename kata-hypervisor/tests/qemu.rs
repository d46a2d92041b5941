//! The QEMU backend against the conformance suite.
#![cfg(all(feature = "qemu", feature = "conformance"))]

use kata_hypervisor::conformance::{Guest, Subject};
use kata_hypervisor::qemu::Qemu;

fn subject() -> Result<Subject, String> {
    let guest = Guest::from_environment()?;
    Ok(Subject::new(Qemu::new(), guest).broken(Qemu::new().binary("/nonexistent/qemu")))
}

kata_hypervisor::conformance_suite!(subject);
