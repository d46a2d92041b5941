//! `-device pvpanic…`: the guest's kernel says that it panicked.

use std::ffi::OsString;

use super::Argument;

/// A panic notifier, found by the guest through ACPI or PCI.
#[derive(Clone, Copy, Debug)]
pub(in crate::qemu) enum Pvpanic {
    /// An I/O port, described in ACPI.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "of q35 and microvm, which are machines of x86_64")
    )]
    Isa,
    /// A PCI device.
    #[cfg_attr(
        all(not(test), not(target_arch = "aarch64")),
        expect(
            dead_code,
            reason = "only aarch64 has it, and its words are tested everywhere"
        )
    )]
    Pci,
}

impl Argument for Pvpanic {
    fn to_args(&self) -> Vec<OsString> {
        let device = match self {
            Self::Isa => "pvpanic",
            Self::Pci => "pvpanic-pci",
        };
        vec!["-device".into(), device.into()]
    }
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    #[test]
    fn each_kind_has_a_name() {
        assert_eq!(words(&Pvpanic::Isa), "-device pvpanic");
        assert_eq!(words(&Pvpanic::Pci), "-device pvpanic-pci");
    }
}
