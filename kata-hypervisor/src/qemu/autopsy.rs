//! Why a QEMU does not answer.

use std::time::Duration;

use super::exit;
use super::qmp::QmpError;
use crate::child::{Child, End};
use crate::error::Error;

/// How long after the end of its connection a process may take to die.
const GRACE: Duration = Duration::from_secs(1);

/// Ends a QEMU that failed to answer, and says what it died of: mostly it has
/// died by itself, and said why.
pub(super) async fn perform(child: &Child, error: &QmpError, phase: &'static str) -> Error {
    if let QmpError::Closed(None) = error {
        let _ = tokio::time::timeout(GRACE, child.ended()).await;
    }
    child.kill();
    let end = child.ended().await;
    let console_tail = child.output().console.bytes();
    if let QmpError::Timeout(deadline) = *error {
        return Error::Timeout {
            phase,
            deadline,
            console_tail,
        };
    }
    let reason = match end {
        End::LetDown(_) => exit::describe(&end, child.output()),
        _ if child.was_killed() => error.to_string(),
        _ => exit::describe(&end, child.output()),
    };
    Error::Ended {
        phase,
        reason,
        console_tail,
    }
}
