//! Questions that were put and are not answered yet.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::home::Packet;

/// What is to be done with an answer, or with `None` when there will be none.
pub(super) type Waiting<L> = Box<dyn FnOnce(&L, Option<Result<Packet>>) + Send>;

/// Questions by number. `L` is whoever hears the answers.
pub(super) struct Calls<L>(Mutex<State<L>>);

struct State<L> {
    numbered: u64,
    /// `None` once there will be no more answers.
    waiting: Option<HashMap<u64, Waiting<L>>>,
}

impl<L> Default for Calls<L> {
    fn default() -> Self {
        let state = State {
            numbered: 0,
            waiting: Some(HashMap::new()),
        };
        Self(state.into())
    }
}

impl<L> std::fmt::Debug for Calls<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").finish_non_exhaustive()
    }
}

impl<L> Calls<L> {
    fn lock(&self) -> MutexGuard<'_, State<L>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a question; `None` when nobody would answer.
    pub(super) fn enter(&self, waiting: Waiting<L>) -> Option<u64> {
        let mut state = self.lock();
        state.numbered += 1;
        let number = state.numbered;
        state.waiting.as_mut()?.insert(number, waiting);
        Some(number)
    }

    /// Takes the question of that number.
    pub(super) fn take(&self, number: u64) -> Option<Waiting<L>> {
        self.lock().waiting.as_mut()?.remove(&number)
    }

    /// Takes all, and lets no more in.
    pub(super) fn close(&self) -> impl Iterator<Item = Waiting<L>> + use<L> {
        let all = self.lock().waiting.take();
        all.into_iter().flat_map(HashMap::into_values)
    }
}
