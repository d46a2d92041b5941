//! The place of KVM's examination on architectures whose machines do not run.

#[path = "verdict.rs"]
mod verdict;

pub(crate) use verdict::Verdict;

/// Says that nothing is known.
pub(crate) fn examine() -> Verdict {
    Verdict::Unusable("this architecture is not supported".to_owned())
}
