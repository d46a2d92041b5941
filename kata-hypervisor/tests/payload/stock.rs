//! Stock kernels under the in-process backend, where the host runs them.

use std::sync::OnceLock;

use kata_hypervisor::Hypervisor;
use kata_hypervisor::conformance::{Guest, Subject};
use kata_hypervisor::kvm::Kvm;

/// Why this host does not run stock kernels, if it does not.
fn obstacle() -> Option<String> {
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

/// This backend with these settings, and the suite's guest; why not, if not.
pub(crate) fn subject(kvm: Kvm) -> Result<Subject, String> {
    if let Some(obstacle) = obstacle() {
        return Err(obstacle);
    }
    let guest = Guest::from_environment()?;
    Ok(Subject::new(kvm, guest).broken(Kvm::new().device("/nonexistent/kvm")))
}
