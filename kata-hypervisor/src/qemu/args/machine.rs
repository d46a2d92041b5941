//! `-machine`: the board.

use std::ffi::OsString;

use super::{Argument, Options};

/// The id of the memory that every machine runs on.
pub(in crate::qemu) const MEMORY_ID: &str = "mem";

/// A board with nothing on it that was not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::qemu) enum Machine {
    /// x86_64 without PCI and without ACPI. The kernel needs the interval timer
    /// and the two interrupt controllers to find its clocks; virtio devices
    /// speak version 1 and are announced on the kernel's command line.
    Microvm,
    /// x86_64 with PCI Express, ACPI and room to grow.
    Q35,
    /// aarch64 with PCI Express; the interrupt controller that fits the host
    /// under KVM, version 3 otherwise.
    #[cfg_attr(
        all(not(test), not(target_arch = "aarch64")),
        expect(
            dead_code,
            reason = "only aarch64 has it, and its words are tested everywhere"
        )
    )]
    Virt {
        /// Whether KVM runs it.
        kvm: bool,
    },
}

impl Argument for Machine {
    fn to_args(&self) -> Vec<OsString> {
        let options = match self {
            Self::Microvm => Options::new("microvm")
                .set("acpi", "off")
                .set("pit", "on")
                .set("pic", "on")
                .set("rtc", "on")
                .set("isa-serial", "on")
                .set("auto-kernel-cmdline", "on"),
            Self::Q35 => Options::new("q35")
                .set("smm", "off")
                .set("sata", "off")
                .set("smbus", "off")
                .set("usb", "off")
                .set("vmport", "off"),
            Self::Virt { kvm } => {
                Options::new("virt").set("gic-version", if *kvm { "max" } else { "3" })
            }
        };
        let mut args = options
            .set("memory-backend", MEMORY_ID)
            .into_option("-machine");
        if *self == Self::Microvm {
            let modern = Options::new("virtio-mmio.force-legacy=false");
            args.extend(modern.into_option("-global"));
        }
        args
    }
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    #[test]
    fn microvm_has_clocks_and_modern_virtio() {
        assert_eq!(
            words(&Machine::Microvm),
            "-machine microvm,acpi=off,pit=on,pic=on,rtc=on,isa-serial=on,\
             auto-kernel-cmdline=on,memory-backend=mem \
             -global virtio-mmio.force-legacy=false"
        );
    }

    #[test]
    fn q35_leaves_out_what_no_guest_of_ours_drives() {
        assert_eq!(
            words(&Machine::Q35),
            "-machine q35,smm=off,sata=off,smbus=off,usb=off,vmport=off,memory-backend=mem"
        );
    }

    #[test]
    fn virt_takes_the_hosts_interrupt_controller_under_kvm() {
        assert_eq!(
            words(&Machine::Virt { kvm: true }),
            "-machine virt,gic-version=max,memory-backend=mem"
        );
        assert_eq!(
            words(&Machine::Virt { kvm: false }),
            "-machine virt,gic-version=3,memory-backend=mem"
        );
    }
}
