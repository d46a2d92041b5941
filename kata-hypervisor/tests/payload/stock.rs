//! Stock kernels under the in-process backend, where the host runs them.
#![allow(dead_code, reason = "each user takes a part of it")]
#![allow(
    clippy::allow_attributes,
    reason = "which part is unused differs by user"
)]

use std::sync::OnceLock;

use kata_hypervisor::Hypervisor;
use kata_hypervisor::conformance::{Guest, Subject};
use kata_hypervisor::kvm::Kvm;

/// Why this host does not run stock kernels, if it does not.
pub(crate) fn obstacle() -> Option<String> {
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

/// This backend with a kernel that was changed on its way: why not, if not. The
/// directory has the kernel.
pub(crate) fn subject_with(
    kvm: Kvm,
    directory: &std::path::Path,
    change: impl Fn(&mut [u8]),
) -> Result<Subject, String> {
    if let Some(obstacle) = obstacle() {
        return Err(obstacle);
    }
    let mut guest = Guest::from_environment()?;
    let failed = |error: std::io::Error| error.to_string();
    let mut kernel = std::fs::read(&guest.kernel).map_err(failed)?;
    change(&mut kernel);
    guest.kernel = directory.join("kernel");
    std::fs::write(&guest.kernel, kernel).map_err(failed)?;
    Ok(Subject::new(kvm, guest))
}

/// This backend with these settings, and the suite's guest; why not, if not.
pub(crate) fn subject(kvm: Kvm) -> Result<Subject, String> {
    if let Some(obstacle) = obstacle() {
        return Err(obstacle);
    }
    let guest = Guest::from_environment()?;
    Ok(Subject::new(kvm, guest).broken(Kvm::new().device("/nonexistent/kvm")))
}
