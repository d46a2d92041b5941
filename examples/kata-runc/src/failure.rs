//! What is said when a command fails.

use std::fmt;

/// The status of a command that failed, unless it says another.
const FAILED: u8 = 1;
/// The status of an `exec` that failed before its program began, as runc's.
pub(crate) const EXEC_FAILED: u8 = 255;
/// The status for a command that there is not.
pub(crate) const NO_SUCH_COMMAND: u8 = 3;

/// Why a command failed: a message for a person, and the exit status.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    message: String,
    pub(crate) status: u8,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            status: FAILED,
        }
    }

    /// A system call on a path that failed, told as runc tells it.
    pub(crate) fn io(
        call: &str,
        path: impl AsRef<std::path::Path>,
        error: &std::io::Error,
    ) -> Self {
        let path = path.as_ref().display();
        Self::new(format!("{call} {path}: {}", errno_text(error)))
    }

    pub(crate) fn with_status(mut self, status: u8) -> Self {
        self.status = status;
        self
    }

    /// What was being done, before what failed.
    pub(crate) fn in_context(mut self, context: &str) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// There is no container of that id. Callers of runc know the words.
    pub(crate) fn no_container() -> Self {
        Self::new("container does not exist")
    }

    /// The container's program does not run. Callers of runc know the words.
    pub(crate) fn not_running() -> Self {
        Self::new("container not running")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<kata_sandbox::Error> for Failure {
    fn from(error: kata_sandbox::Error) -> Self {
        let mut message = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        if let Some(remedy) = error.remedy() {
            message.push_str("; ");
            message.push_str(remedy);
        }
        Self::new(message)
    }
}

/// The system's text for an error, in small letters as runc's callers match it:
/// "no such file or directory".
pub(crate) fn errno_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_errors_are_told_as_runc_tells_them() {
        let error = std::io::Error::from_raw_os_error(2);
        assert_eq!(
            Failure::io("open", "/x", &error).to_string(),
            "open /x: no such file or directory"
        );
    }

    #[test]
    fn a_context_goes_before_the_message_and_keeps_the_status() {
        let failure = Failure::new("gone")
            .with_status(EXEC_FAILED)
            .in_context("exec failed");
        assert_eq!(failure.to_string(), "exec failed: gone");
        assert_eq!(failure.status, 255);
    }
}
