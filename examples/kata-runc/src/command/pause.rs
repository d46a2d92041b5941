//! Making a container stand still, and letting it go on.

use crate::cli::{Arguments, Globals};
use crate::client;
use crate::failure::{Failure, Result};
use crate::root::{Locked, Root};
use crate::state::Status;

/// The command `pause`.
pub(crate) fn pause(globals: &Globals, arguments: &Arguments) -> Result<u8> {
    let locked = Root::open(&globals.root)?.lock(arguments.argument(0)?)?;
    match locked.record.status() {
        Status::Running | Status::Created => {}
        _ => return Err(Failure::not_running()),
    }
    client::block_on(bring(globals, locked, Status::Paused))??;
    Ok(0)
}

/// The command `resume`.
pub(crate) fn resume(globals: &Globals, arguments: &Arguments) -> Result<u8> {
    let locked = Root::open(&globals.root)?.lock(arguments.argument(0)?)?;
    if locked.record.status() != Status::Paused {
        return Err(Failure::new("container not paused"));
    }
    client::block_on(bring(globals, locked, Status::Running))??;
    Ok(0)
}

async fn bring(globals: &Globals, mut locked: Locked, status: Status) -> Result<()> {
    let Some(container) = client::container(globals, &locked.record).await? else {
        return Err(Failure::not_running());
    };
    match status {
        Status::Paused => container.pause().await?,
        _ => container.resume().await?,
    }
    locked.record.status = match status {
        // As it was before.
        Status::Running if !locked.record.started => Status::Created,
        status => status,
    };
    locked.directory.save(&locked.record)
}
