//! `checkpoint` and `restore`: known by name, and refused.

use crate::cli::{Arguments, Globals};
use crate::failure::{Failure, Result};
use crate::root::Root;

/// The command `checkpoint`.
pub(crate) fn checkpoint(globals: &Globals, arguments: &Arguments) -> Result<u8> {
    Root::open(&globals.root)?.load(arguments.argument(0)?)?;
    Err(Failure::new(
        "checkpoint is unsupported: a container cannot be taken out of its virtual machine",
    ))
}

/// The command `restore`.
pub(crate) fn restore(_: &Globals, _: &Arguments) -> Result<u8> {
    Err(Failure::new(
        "restore is unsupported: there are no checkpoints of containers in virtual machines",
    ))
}
