//! What may be found of a KVM.

use std::io;
use std::path::Path;

/// What was found of the host's KVM.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It runs kernels.
    Works,
    /// The device is not there.
    Missing,
    /// The device is there, and not for this user.
    Unopenable(io::Error),
    /// It is no KVM that this library knows.
    Unusable(String),
    /// It cannot run a stock kernel; `pvm` when that is why.
    NoStockKernel {
        /// Whether the module `kvm_pvm` is loaded.
        pvm: bool,
        /// What happened in the test machine.
        what: String,
    },
}

impl Verdict {
    /// What is wrong, and what would help; `None` when it works.
    pub(crate) fn problem(&self, device: &Path) -> Option<(String, &'static str)> {
        let device = device.display();
        Some(match self {
            Self::Works => return None,
            Self::Missing => (format!("{device} is not there"), missing_remedy()),
            Self::Unopenable(error) => (
                format!("{device} cannot be opened: {error}"),
                "give this user access to it, such as through the group kvm",
            ),
            Self::Unusable(why) => (
                format!("{device} cannot be used: {why}"),
                "load kvm_intel or kvm_amd",
            ),
            Self::NoStockKernel { pvm, what } => (no_stock_kernel(*pvm, what), STOCK_REMEDY),
        })
    }
}

const STOCK_REMEDY: &str = "use a host with hardware virtualization (kvm_intel, kvm_amd); \
                            until then guests are emulated";

fn no_stock_kernel(pvm: bool, what: &str) -> String {
    let who = if pvm {
        " (it is kvm_pvm, which emulates ring 0)"
    } else {
        ""
    };
    format!("the host's KVM cannot run a stock kernel{who}: {what}")
}

fn missing_remedy() -> &'static str {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default();
    let has = |flag: &str| flags.split_ascii_whitespace().any(|word| word == flag);
    if has("vmx") || has("svm") {
        "load the module kvm_intel or kvm_amd, or pass /dev/kvm into this container"
    } else if has("hypervisor") {
        "turn on nested virtualization for this virtual machine on its host"
    } else {
        "turn on virtualization in the firmware, or use a host that has it"
    }
}
