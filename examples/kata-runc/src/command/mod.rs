//! The commands.

mod create;
mod delete;
mod events;
mod exec;
mod features;
mod foreground;
mod kill;
mod list;
mod pause;
mod pid_file;
mod ps;
mod run;
mod snapshot;
mod spec;
mod start;
mod state;
mod supervisor;
mod terminal;
mod update;

pub(crate) use create::create;
pub(crate) use delete::delete;
pub(crate) use events::events;
pub(crate) use exec::exec;
pub(crate) use features::features;
pub(crate) use kill::kill;
pub(crate) use list::list;
pub(crate) use pause::{pause, resume};
pub(crate) use ps::ps;
pub(crate) use run::run;
pub(crate) use snapshot::{checkpoint, restore};
pub(crate) use spec::spec;
pub(crate) use start::start;
pub(crate) use state::state;
pub(crate) use supervisor::supervisor;
pub(crate) use update::update;

use std::io::Write as _;

use crate::failure::{Failure, Result, errno_text};

/// Writes a command's answer.
fn print(text: &str) -> Result<u8> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::new(format!("write /dev/stdout: {}", errno_text(&error))))?;
    Ok(0)
}
