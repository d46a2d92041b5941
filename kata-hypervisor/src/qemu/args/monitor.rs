//! `-mon`: the machine protocol's end.

use std::ffi::OsString;

use super::{Argument, Options};

/// A monitor that speaks the machine protocol over a character device.
#[derive(Clone, Copy, Debug)]
pub(in crate::qemu) struct Monitor {
    /// The character device.
    pub(in crate::qemu) chardev: &'static str,
}

impl Argument for Monitor {
    fn to_args(&self) -> Vec<OsString> {
        Options::new(&format!("chardev={}", self.chardev))
            .set("mode", "control")
            .into_option("-mon")
    }
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    #[test]
    fn it_speaks_json() {
        assert_eq!(
            words(&Monitor { chardev: "qmp" }),
            "-mon chardev=qmp,mode=control"
        );
    }
}
