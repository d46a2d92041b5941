//! What a child leans on while it lives.

use std::os::fd::BorrowedFd;
use std::time::Duration;

/// What a child leans on while it lives, such as the back ends of its devices.
/// Dropped once the child has been reaped.
pub(crate) trait Support: Send {
    /// What becomes readable, and stays so, when a part of it has ended.
    fn bells(&self) -> Vec<BorrowedFd<'_>>;

    /// What has failed, if something has.
    fn failure(&self) -> Option<Failure>;
}

/// A support that is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What it was, and why it failed.
    pub(crate) reason: String,
    /// How long the child may live on: it may be dying itself, which is what
    /// the support noticed.
    pub(crate) patience: Duration,
}

/// Nothing, which never fails.
impl Support for () {
    fn bells(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn failure(&self) -> Option<Failure> {
        None
    }
}
