//! Why something could not be done, for the person who must act on it.

mod convert;
mod fault;

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;

pub(crate) use convert::Context;
pub(crate) use fault::Fault;

/// `Result` of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) type Source = Box<dyn StdError + Send + Sync + 'static>;

/// What sort of failure it is: what a program decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no such thing.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// What was asked for makes no sense.
    InvalidConfig,
    /// The target is in the wrong state for this.
    InvalidState,
    /// The backend, or the guest, cannot do that at all.
    Unsupported,
    /// This host cannot run virtual machines that way; says what would help.
    HostNotCapable,
    /// It did not happen in time.
    Timeout,
    /// It was given up because its sandbox is being stopped.
    Cancelled,
    /// The virtual machine, or the agent in it, is gone.
    GuestLost,
    /// Something has run out: memory, disk space, file descriptors.
    Resource,
    /// The host or the guest does not allow it.
    Denied,
    /// The guest answered what makes no sense.
    Protocol,
    /// A failure that should not happen.
    Internal,
}

impl ErrorKind {
    fn words(self) -> &'static str {
        match self {
            Self::NotFound => "there is no such thing",
            Self::AlreadyExists => "it exists already",
            Self::InvalidConfig => "its configuration is invalid",
            Self::InvalidState => "it is in the wrong state",
            Self::Unsupported => "that is not supported",
            Self::HostNotCapable => "this host cannot run it",
            Self::Timeout => "it took too long",
            Self::Cancelled => "it was given up",
            Self::GuestLost => "the guest is gone",
            Self::Resource => "a resource has run out",
            Self::Denied => "it is not allowed",
            Self::Protocol => "the guest answered what makes no sense",
            Self::Internal => "it failed",
        }
    }

    pub(crate) fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::AlreadyExists => Self::AlreadyExists,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Denied,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::OutOfMemory => Self::Resource,
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::UnexpectedEof => Self::GuestLost,
            _ => match error
                .raw_os_error()
                .map(rustix::io::Errno::from_raw_os_error)
            {
                Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => Self::Resource,
                _ => Self::Internal,
            },
        }
    }
}

/// What helps against failures of the host that need no more to be known.
fn remedy_of_io(error: &io::Error) -> Option<&'static str> {
    use rustix::io::Errno;
    match error.raw_os_error().map(Errno::from_raw_os_error)? {
        Errno::NOSPC | Errno::DQUOT => Some("free some space on that file system"),
        Errno::MFILE => Some("raise this process's limit on open files"),
        Errno::NFILE => Some("raise the host's limit on open files, fs.file-max"),
        _ => None,
    }
}

/// Why something could not be done: what was attempted, on what, when, why, and
/// what would help.
///
/// One sentence as `{}`; as `{:#}` with every cause behind it. The causes are
/// in [`source`](StdError::source), each said once.
pub struct Error(Box<Detail>);

#[derive(Debug)]
struct Detail {
    kind: ErrorKind,
    operation: Cow<'static, str>,
    target: String,
    phase: Option<Cow<'static, str>>,
    reason: Option<String>,
    remedy: Option<String>,
    console_tail: Option<Vec<u8>>,
    source: Option<Source>,
}

impl Error {
    pub(crate) fn new(
        kind: ErrorKind,
        operation: impl Into<Cow<'static, str>>,
        target: impl Into<String>,
    ) -> Self {
        Self(Box::new(Detail {
            kind,
            operation: operation.into(),
            target: target.into(),
            phase: None,
            reason: None,
            remedy: None,
            console_tail: None,
            source: None,
        }))
    }

    /// An error that a failed host call explains.
    pub(crate) fn io(
        operation: &'static str,
        target: impl Into<String>,
        what: impl Into<String>,
        source: io::Error,
    ) -> Self {
        let error = Self::new(ErrorKind::of_io(&source), operation, target).because(what);
        let error = match remedy_of_io(&source) {
            Some(remedy) => error.with_remedy(remedy),
            None => error,
        };
        error.caused_by(source)
    }

    pub(crate) fn because(mut self, reason: impl Into<String>) -> Self {
        self.0.reason = Some(reason.into());
        self
    }

    pub(crate) fn caused_by(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub(crate) fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy.get_or_insert_with(|| remedy.into());
        self
    }

    /// Says during what it happened, unless that is known already.
    pub(crate) fn during(mut self, phase: impl Into<Cow<'static, str>>) -> Self {
        self.0.phase.get_or_insert_with(|| phase.into());
        self
    }

    /// Adds the guest's last words, where the guest is involved.
    pub(crate) fn with_console(mut self, tail: impl FnOnce() -> Vec<u8>) -> Self {
        let guest = matches!(
            self.0.kind,
            ErrorKind::GuestLost | ErrorKind::Timeout | ErrorKind::Protocol
        );
        if guest && self.0.console_tail.as_ref().is_none_or(Vec::is_empty) {
            self.0.console_tail = Some(tail());
        }
        self
    }

    /// The kind of failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What was attempted, such as `start sandbox`.
    #[must_use]
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// What it was attempted on: a sandbox's id, `sandbox/container`, a path.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.0.target
    }

    /// The phase in which it failed, for operations that have phases.
    #[must_use]
    pub fn phase(&self) -> Option<&str> {
        self.0.phase.as_deref()
    }

    /// What would help, where that is known.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        self.0.remedy.as_deref()
    }

    /// The last bytes of the guest's console, where the guest is involved.
    #[must_use]
    pub fn console_tail(&self) -> Option<&[u8]> {
        self.0.console_tail.as_deref()
    }

    /// Whether the same call may succeed later without a change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Timeout | ErrorKind::Resource)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Detail {
            operation, target, ..
        } = &*self.0;
        write!(f, "cannot {operation} {target}")?;
        if let Some(phase) = &self.0.phase {
            write!(f, " ({phase})")?;
        }
        match &self.0.reason {
            Some(reason) => write!(f, ": {reason}")?,
            None => write!(f, ": {}", self.0.kind.words())?,
        }
        if f.alternate() {
            let mut cause = self.source();
            while let Some(error) = cause {
                write!(f, ": {error}")?;
                cause = error.source();
            }
        }
        self.0
            .remedy
            .as_ref()
            .map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Detail {
            kind,
            operation,
            target,
            phase,
            reason,
            remedy,
            console_tail,
            source,
        } = &*self.0;
        let console_tail = console_tail
            .as_ref()
            .map(|tail| String::from_utf8_lossy(tail));
        f.debug_struct("Error")
            .field("kind", kind)
            .field("operation", operation)
            .field("target", target)
            .field("phase", phase)
            .field("reason", reason)
            .field("remedy", remedy)
            .field("source", source)
            .field("console_tail", &console_tail)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_ref()
            .map(|source| &**source as &(dyn StdError + 'static))
    }
}

/// Several failures of one tear-down, which went on past each.
#[derive(Debug)]
pub struct Failures(Vec<Error>);

impl Failures {
    pub(crate) fn new(errors: Vec<Error>) -> Self {
        Self(errors)
    }

    /// The failures, in the order in which they happened.
    #[must_use]
    pub fn errors(&self) -> &[Error] {
        &self.0
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{error:#}")?;
        }
        Ok(())
    }
}

impl StdError for Failures {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sentence_says_what_on_what_when_why_and_what_helps() {
        let error = Error::io("start sandbox", "demo", "the state directory is full", {
            io::Error::from(io::ErrorKind::StorageFull)
        })
        .during("journal")
        .with_remedy("free some space in /run");
        assert_eq!(error.kind(), ErrorKind::Resource);
        assert!(error.is_retryable());
        assert_eq!(
            error.to_string(),
            "cannot start sandbox demo (journal): the state directory is full; \
             free some space in /run"
        );
        assert_eq!(
            format!("{error:#}"),
            "cannot start sandbox demo (journal): the state directory is full: \
             no storage space; free some space in /run"
        );
    }

    #[test]
    fn the_first_phase_named_stays() {
        let error = Error::new(ErrorKind::Timeout, "x", "y")
            .during("first")
            .during("second");
        assert_eq!(error.phase(), Some("first"));
    }

    #[test]
    fn a_console_tail_is_kept_only_where_the_guest_is_involved() {
        let guest = Error::new(ErrorKind::GuestLost, "x", "y").with_console(|| b"oops".to_vec());
        assert_eq!(guest.console_tail(), Some(&b"oops"[..]));
        assert!(format!("{guest:?}").contains("oops"));
        let host = Error::new(ErrorKind::Denied, "x", "y").with_console(|| b"oops".to_vec());
        assert_eq!(host.console_tail(), None);
    }

    #[test]
    fn all_failures_of_a_tear_down_are_said() {
        let failures = Failures::new(vec![
            Error::new(ErrorKind::Timeout, "stop", "a"),
            Error::new(ErrorKind::Denied, "remove", "b").caused_by("root only"),
        ]);
        assert_eq!(failures.errors().len(), 2);
        assert_eq!(
            failures.to_string(),
            "cannot stop a: it took too long; cannot remove b: it is not allowed: root only"
        );
    }
}
