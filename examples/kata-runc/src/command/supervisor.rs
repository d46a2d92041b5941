//! The hidden command that a sandbox's engine lives in.

use kata_sandbox::supervisor;

use crate::cli::{Arguments, Globals};
use crate::failure::Result;

/// The command: serves one sandbox to its end.
pub(crate) fn supervisor(_: &Globals, _: &Arguments) -> Result<u8> {
    supervisor::serve(|runtime| runtime)?;
    Ok(0)
}
