//! How long each phase of a machine's making took.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::vm::Phase;

/// The phases of one machine, as they end.
#[derive(Debug, Default)]
pub(crate) struct Timeline(Mutex<Vec<Phase>>);

impl Timeline {
    /// Records that the phase `name`, begun at `began`, has just ended.
    pub(crate) fn ended(&self, name: &'static str, began: Instant) {
        self.span(name, began, Instant::now());
    }

    /// Records a phase between two moments.
    pub(crate) fn span(&self, name: &'static str, began: Instant, ended: Instant) {
        let phase = Phase {
            name,
            began,
            took: ended.saturating_duration_since(began),
        };
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(phase);
    }

    /// All phases that have ended, in the order in which they began.
    pub(crate) fn phases(&self) -> Vec<Phase> {
        let mut phases = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        phases.sort_by_key(|phase| phase.began);
        phases
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn phases_come_in_the_order_of_their_beginning() {
        let timeline = Timeline::default();
        let zero = Instant::now();
        timeline.span(
            "second",
            zero + Duration::from_millis(2),
            zero + Duration::from_millis(3),
        );
        timeline.span("first", zero, zero + Duration::from_millis(9));
        let phases = timeline.phases();
        assert_eq!(
            phases.iter().map(|p| p.name).collect::<Vec<_>>(),
            ["first", "second"]
        );
        assert_eq!(phases[0].took, Duration::from_millis(9));
    }
}
