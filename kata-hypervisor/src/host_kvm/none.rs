//! The place of KVM's examination on architectures whose machines do not run.

#[path = "verdict.rs"]
mod verdict;

pub(crate) use verdict::Verdict;

/// Where KVM would be.
pub(crate) const DEVICE: &str = "/dev/kvm";

/// Says that nothing is known.
pub(crate) fn examine(_device: &std::path::Path) -> Verdict {
    Verdict::Unusable("this architecture is not supported".to_owned())
}
