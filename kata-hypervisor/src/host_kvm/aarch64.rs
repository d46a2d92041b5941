//! What a stock kernel needs of KVM on aarch64.

use kvm_ioctls::Kvm;

/// Whether a machine and a processor can be made: on this architecture KVM
/// runs guests in hardware or not at all.
///
/// # Errors
/// What happened instead.
pub(crate) fn run_in_ring_0(kvm: &Kvm) -> Result<(), String> {
    let vm = kvm
        .create_vm()
        .map_err(|error| format!("no machine can be made: {error}"))?;
    vm.create_vcpu(0)
        .map_err(|error| format!("no processor can be made: {error}"))?;
    Ok(())
}
