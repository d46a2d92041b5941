//! Files and mounts by descriptor: what a path leads to is decided once, by
//! rules that no container can bend, and used as it was found.
//!
//! | module | what |
//! |---|---|
//! | [`inside`] | paths below a root that is not trusted |
//! | [`volume`] | paths of the guest, which may lead into such |
//! | [`tree`], [`attributes`] | mounts that are attached nowhere yet |

mod attributes;
mod inside;
mod tree;
mod volume;

pub(crate) use attributes::*;
pub(crate) use inside::{Kind, Root};
pub(crate) use tree::{attach, clone_open, clone_tree, kind, name};
pub(crate) use volume::Volumes;
