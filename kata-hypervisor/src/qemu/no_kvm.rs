//! The place of KVM's examination on architectures whose machines do not run.

use super::verdict::Verdict;

/// Says that nothing is known.
pub(super) fn examine() -> Verdict {
    Verdict::Unusable("this architecture is not supported".to_owned())
}
