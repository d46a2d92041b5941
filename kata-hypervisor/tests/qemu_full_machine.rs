//! The machine with PCI and ACPI against the conformance suite.
#![cfg(all(feature = "qemu", feature = "conformance"))]

use kata_hypervisor::conformance::{Guest, Subject};
use kata_hypervisor::qemu::{MachineChoice, Qemu};

fn subject() -> Result<Subject, String> {
    let guest = Guest::from_environment()?;
    let full = || Qemu::new().machine(MachineChoice::Full);
    Ok(Subject::new(full(), guest).broken(full().binary("/nonexistent/qemu")))
}

kata_hypervisor::conformance_suite!(subject);
