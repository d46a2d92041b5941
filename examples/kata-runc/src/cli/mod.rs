//! The command line: what there is, how it is read, and what help says.

mod describe;
mod flags;
mod help;
mod main;
mod parse;

pub(crate) use flags::Arguments;
pub(crate) use main::{Globals, NAME, OCI_VERSION, main};
