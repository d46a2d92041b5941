//! The steps at which a process may die, for tests that make it die there.

use std::fmt;
use std::sync::Arc;

/// What is told of each step, by name.
type Listener = Arc<dyn Fn(&'static str) + Send + Sync>;

/// Tells a listener, where there is one, how far things have come.
#[derive(Clone, Default)]
pub(crate) struct Steps(Option<Listener>);

impl Steps {
    pub(crate) fn told_to(listener: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    /// This step was reached.
    pub(crate) fn reach(&self, step: &'static str) {
        if let Some(listener) = &self.0 {
            listener(step);
        }
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Steps")
    }
}
