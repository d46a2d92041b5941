//! How a machine ends, and who is told.

use std::sync::OnceLock;

use tokio::sync::watch;

use crate::vm::VmExit;

/// What a guest can bring about by touching a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GuestEvent {
    /// It switched itself off.
    PowerOff,
    /// It asked for a reset.
    Reset,
    /// Its kernel said that it panicked.
    Panic,
}

/// The end of one machine: decided once, known to all who wait.
#[derive(Debug)]
pub(super) struct Ending {
    verdict: OnceLock<VmExit>,
    /// Virtual processors whose threads have not left yet.
    remaining: watch::Sender<usize>,
}

impl Ending {
    /// That of a machine with so many virtual processors.
    pub(super) fn new(vcpus: usize) -> Self {
        Self {
            verdict: OnceLock::new(),
            remaining: watch::Sender::new(vcpus),
        }
    }

    /// Decides, unless it was decided before.
    pub(super) fn decide(&self, exit: VmExit) {
        let _ = self.verdict.set(exit);
    }

    /// What was decided.
    pub(super) fn verdict(&self) -> Option<&VmExit> {
        self.verdict.get()
    }

    /// A processor's thread leaves.
    pub(super) fn left(&self) {
        self.remaining
            .send_modify(|remaining| *remaining = remaining.saturating_sub(1));
    }

    /// Waits until no processor can run any more, and says why.
    pub(super) async fn over(&self) -> VmExit {
        let mut remaining = self.remaining.subscribe();
        // The sender is a field of `self`: it cannot be gone.
        let _ = remaining.wait_for(|remaining| *remaining == 0).await;
        self.verdict.get().cloned().unwrap_or(VmExit::Crashed {
            reason: "its processors stopped and none said why".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_decision_stands_and_holds_when_all_have_left() {
        let ending = Ending::new(2);
        ending.decide(VmExit::Reset);
        ending.decide(VmExit::Killed);
        ending.left();
        let soon = std::time::Duration::from_millis(10);
        assert!(tokio::time::timeout(soon, ending.over()).await.is_err());
        ending.left();
        ending.left();
        assert_eq!(ending.over().await, VmExit::Reset);
        assert_eq!(ending.verdict(), Some(&VmExit::Reset));
    }

    #[tokio::test]
    async fn processors_that_leave_without_a_word_have_crashed() {
        let ending = Ending::new(1);
        ending.left();
        assert!(matches!(ending.over().await, VmExit::Crashed { .. }));
    }
}
