//! Capabilities of a process.

use oci_spec::runtime as oci;

/// Gives a process these capabilities and no others: what it may ever have,
/// has, and keeps. Nothing is inherited or ambient.
pub(crate) fn set(
    process: &mut oci::Process,
    capabilities: impl IntoIterator<Item = oci::Capability>,
) {
    let set: oci::Capabilities = capabilities.into_iter().collect();
    let mut capabilities = oci::LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_permitted(Some(set))
        .set_inheritable(None)
        .set_ambient(None);
    process.set_capabilities(Some(capabilities));
}
