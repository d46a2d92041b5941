//! Errors on their way between processes.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Detail, Error, ErrorKind};

/// An error, as it travels: all of it, its causes as they print.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    kind: ErrorKind,
    operation: String,
    target: String,
    phase: Option<String>,
    reason: Option<String>,
    remedy: Option<String>,
    console_tail: Option<Vec<u8>>,
    causes: Vec<String>,
}

/// A cause that another process has told.
#[derive(Debug)]
struct Told {
    text: String,
    source: Option<Box<Told>>,
}

impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        let detail = &*error.0;
        let mut causes = Vec::new();
        let mut cause = error.source();
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        Self {
            kind: detail.kind,
            operation: detail.operation.clone().into_owned(),
            target: detail.target.clone(),
            phase: detail.phase.clone().map(Cow::into_owned),
            reason: detail.reason.clone(),
            remedy: detail.remedy.clone(),
            console_tail: detail.console_tail.clone(),
            causes,
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let told = fault
            .causes
            .into_iter()
            .rev()
            .fold(None, |source, text| Some(Box::new(Told { text, source })));
        Self(Box::new(Detail {
            kind: fault.kind,
            operation: fault.operation.into(),
            target: fault.target,
            phase: fault.phase.map(Cow::Owned),
            reason: fault.reason,
            remedy: fault.remedy,
            console_tail: fault.console_tail,
            source: told.map(|told| told as _),
        }))
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Told {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_the_same_after_its_trip() {
        let cause = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let inner = Error::io("write log", "s/c", "the disk is full", cause);
        let error = Error::new(ErrorKind::GuestLost, "start sandbox", "s")
            .because("the guest's kernel panicked")
            .during("guest boot")
            .with_remedy("give it a root file system")
            .with_console(|| b"Kernel panic".to_vec())
            .caused_by(inner);
        let json = serde_json::to_string(&Fault::from(&error)).unwrap();
        let came = Error::from(serde_json::from_str::<Fault>(&json).unwrap());
        assert_eq!(came.kind(), ErrorKind::GuestLost);
        assert_eq!(came.operation(), "start sandbox");
        assert_eq!((came.target(), came.phase()), ("s", Some("guest boot")));
        assert_eq!(came.remedy(), error.remedy());
        assert_eq!(came.console_tail(), Some(&b"Kernel panic"[..]));
        assert_eq!(format!("{came:#}"), format!("{error:#}"));
        assert_eq!(Fault::from(&came), Fault::from(&error));
    }
}
