//! What there is to say of a container.

use super::print;
use crate::cli::{Arguments, Globals};
use crate::failure::{Failure, Result};
use crate::root::Root;

/// The command.
pub(crate) fn state(globals: &Globals, arguments: &Arguments) -> Result<u8> {
    let record = Root::open(&globals.root)?.load(arguments.argument(0)?)?;
    let json = serde_json::to_string_pretty(&record.state(String::new()))
        .map_err(|error| Failure::new(error.to_string()))?;
    print(&json)
}
