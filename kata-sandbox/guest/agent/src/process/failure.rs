//! Failures as the caller on the host sees them: a status with a sentence.

use std::fmt::Display;
use std::io;

use kata_protocol::ttrpc::{Code, Status};

/// Says what was attempted when it failed.
pub(crate) trait Context<T> {
    /// Turns the error into a status `"<what>: <error>"`.
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T, Status>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T, Status> {
        self.map_err(|error| {
            let error: io::Error = error.into();
            Status::new(code(&error), format!("{}: {error}", what()))
        })
    }
}

/// Says which field of the specification a failure is about.
pub(crate) trait Field<T> {
    /// Puts the field's name before the message.
    fn field<D: Display>(self, name: impl FnOnce() -> D) -> Result<T, Status>;
}

impl<T> Field<T> for Result<T, Status> {
    fn field<D: Display>(self, name: impl FnOnce() -> D) -> Result<T, Status> {
        self.map_err(|status| Status::new(status.code(), format!("{}: {}", name(), status.message)))
    }
}

/// The status code that tells the caller most about an error of the system.
fn code(error: &io::Error) -> Code {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENOSYS | libc::EOPNOTSUPP) => {
            Code::FailedPrecondition
        }
        Some(libc::EPERM | libc::EACCES) => Code::PermissionDenied,
        Some(libc::EINVAL | libc::ENOTDIR | libc::ELOOP | libc::ENAMETOOLONG) => {
            Code::InvalidArgument
        }
        Some(libc::ENOSPC | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EAGAIN) => {
            Code::ResourceExhausted
        }
        _ => Code::Internal,
    }
}

/// A request that makes no sense.
pub(crate) fn refuse(message: impl Into<String>) -> Status {
    Status::new(Code::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_failed_and_why() {
        let missing: io::Result<()> = Err(io::Error::from_raw_os_error(libc::ENOENT));
        let status = missing.context(|| "mount /a on /b").unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(
            status.message.starts_with("mount /a on /b: No such file"),
            "{}",
            status.message
        );
    }
}
