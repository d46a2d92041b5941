//! `-sandbox`: QEMU's own system call filter.

use std::ffi::OsString;

use super::{Argument, Options};

/// All filters on: no obsolete calls, no new privileges, no processes, no
/// changes of scheduling.
#[derive(Clone, Copy, Debug)]
pub(in crate::qemu) struct Sandbox;

impl Argument for Sandbox {
    fn to_args(&self) -> Vec<OsString> {
        Options::new("on")
            .set("obsolete", "deny")
            .set("elevateprivileges", "deny")
            .set("spawn", "deny")
            .set("resourcecontrol", "deny")
            .into_option("-sandbox")
    }
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    #[test]
    fn everything_is_denied() {
        assert_eq!(
            words(&Sandbox),
            "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
        );
    }
}
