//! Starting a container's program.

use crate::cli::{Arguments, Globals};
use crate::client;
use crate::failure::{Failure, Result};
use crate::hooks;
use crate::root::{Locked, Root};
use crate::state::{Record, Status};

/// The command.
pub(crate) fn start(globals: &Globals, arguments: &Arguments) -> Result<u8> {
    let locked = Root::open(&globals.root)?.lock(arguments.argument(0)?)?;
    client::block_on(begin(globals, locked))??;
    Ok(0)
}

/// Starts the program of a created container.
pub(super) async fn begin(globals: &Globals, mut locked: Locked) -> Result<()> {
    match locked.record.status() {
        Status::Created => {}
        Status::Stopped => {
            return Err(Failure::new("cannot start a container that has stopped"));
        }
        Status::Running => {
            return Err(Failure::new("cannot start an already running container"));
        }
        other => {
            return Err(Failure::new(format!(
                "cannot start a container in the {other} state"
            )));
        }
    }
    if locked.record.network_later {
        find_network(globals, &locked.record).await?;
    }
    let Some(container) = client::container(globals, &locked.record).await? else {
        return Err(Failure::new("cannot start a container that has stopped"));
    };
    // Written before it is so: a command that is killed in between must not
    // leave a program that runs and is said not to.
    locked.record.status = Status::Running;
    locked.record.started = true;
    locked.directory.save(&locked.record)?;
    // Its streams are the proxy's.
    if let Err(error) = container.start().await {
        // Its proxy ends with it: it is stopped, and nobody waits for it.
        if let Err(error) = container.delete().await {
            log::debug!(error:%; "a container that did not start is still there");
        }
        return Err(error.into());
    }
    // Hooks may run commands on it, and take their time.
    let Locked { record, .. } = locked;
    hooks::poststart(&record).await;
    Ok(())
}

/// Gives the sandbox what has come to its network namespace since `create`, as
/// newer Dockers do it.
async fn find_network(globals: &Globals, record: &Record) -> Result<()> {
    let Some(sandbox) = client::sandbox(globals, record).await? else {
        return Err(Failure::new("cannot start a container that has stopped"));
    };
    sandbox.rescan_networks().await?;
    Ok(())
}
