//! What is going on, for programs that show it.

use std::fmt;

/// Something that was begun, or has come so far.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// A step that may take a while was begun.
    Step(String),
    /// The last step has done so many pieces of work.
    Count {
        /// What is counted, such as `files compiled`.
        what: &'static str,
        /// How many so far.
        done: usize,
    },
}

/// Is told what is going on.
pub type Report<'a> = &'a dyn Fn(Progress);

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(step) => f.write_str(step),
            Self::Count { what, done } => write!(f, "{done} {what}"),
        }
    }
}
