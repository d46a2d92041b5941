//! Kernel modules: which are needed for those that are wanted, and in what
//! order they are loaded.
//!
//! What a module needs is read from the module itself (`.modinfo`), not from
//! `modules.dep`: that file is made by `depmod` when a kernel is installed, and a
//! package that was only unpacked has none.

mod modinfo;
mod order;
mod tree;

pub use tree::{Module, ModuleTree};

/// Module names with `-` and `_` taken for the same, as the kernel takes them.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}
