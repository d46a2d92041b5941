//! Whether the host's KVM can run a stock kernel.
//!
//! That `/dev/kvm` opens says little: on a host whose KVM is `kvm_pvm` the
//! guest's kernel mode is emulated instruction by instruction, and a stock
//! kernel stops at the first instruction the emulator lacks. So a few such
//! instructions are executed in a machine of a few pages.

mod verdict;

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod arch;

use std::io;
use std::path::Path;

use kvm_ioctls::Kvm;

use arch::run_in_ring_0;

pub(crate) use verdict::Verdict;

/// The version of the interface that has been the only one since Linux 2.6.22.
const API_VERSION: i32 = 12;
/// Where KVM is, unless the embedder says otherwise.
pub(crate) const DEVICE: &str = "/dev/kvm";
/// The module of a KVM without hardware virtualization.
const PVM: &str = "/sys/module/kvm_pvm";

/// Examines KVM's device. Blocks for some milliseconds.
pub(crate) fn examine(device: &Path) -> Verdict {
    if !device.exists() {
        return Verdict::Missing;
    }
    let kvm = match open(device) {
        Ok(kvm) => kvm,
        Err(error) => {
            return Verdict::Unopenable(error);
        }
    };
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Verdict::Unusable(format!("it speaks version {version} of the interface"));
    }
    match run_in_ring_0(&kvm) {
        Ok(()) => Verdict::Works,
        Err(what) => Verdict::NoStockKernel {
            pvm: Path::new(PVM).exists(),
            what,
        },
    }
}

/// Opens KVM's device.
pub(crate) fn open(device: &Path) -> io::Result<Kvm> {
    let path = std::ffi::CString::new(device.as_os_str().as_encoded_bytes())?;
    Ok(Kvm::new_with_path(path)?)
}
