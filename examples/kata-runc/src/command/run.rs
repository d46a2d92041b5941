//! Making a container and running its program, here or left behind.

use super::create::{Made, make, make_and_settle};
use super::delete;
use super::foreground;
use super::start;
use super::terminal::Console;
use crate::cli::{Arguments, Globals, NAME};
use crate::client;
use crate::failure::Result;
use crate::root::Root;

/// The command.
pub(crate) fn run(globals: &Globals, arguments: &Arguments) -> Result<u8> {
    client::block_on(run_now(globals, arguments))?
        .map_err(|failure| failure.in_context(&format!("{NAME} run failed")))
}

async fn run_now(globals: &Globals, arguments: &Arguments) -> Result<u8> {
    let root = Root::open(&globals.root)?;
    if arguments.has("detach") {
        let id = make_and_settle(globals, arguments).await?.id;
        if let Err(failure) = start::begin(globals, root.lock(&id)?).await {
            delete::force(globals, root.lock(&id)?).await?;
            return Err(failure);
        }
        return Ok(0);
    }
    let made = make(globals, arguments, false).await?;
    let id = made.record.id.clone();
    let status = attend(globals, &root, made).await;
    if status.is_err() || !arguments.has("keep") {
        delete::force(globals, root.lock(&id)?).await?;
    }
    status
}

/// Runs the program, and waits for its end.
async fn attend(globals: &Globals, root: &Root, made: Made) -> Result<u8> {
    let Made {
        record,
        mut proxy,
        console,
        ..
    } = made;
    let watch = foreground::Watch::begin()?;
    proxy.settle()?;
    start::begin(globals, root.lock(&record.id)?).await?;
    let own = match console {
        Console::Own { pty, terminal } => Some((pty, terminal)),
        Console::None | Console::Socket { .. } => None,
    };
    watch.until_end(proxy.into_child(), own).await
}
