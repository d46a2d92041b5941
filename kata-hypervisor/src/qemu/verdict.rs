//! What may be found of a KVM.

use std::io;

/// What was found of the host's KVM.
#[derive(Debug)]
pub(super) enum Verdict {
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
