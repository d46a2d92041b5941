//! `-serial`: the guest's console.

use std::ffi::OsString;

use super::Argument;

/// The board's first serial port.
#[derive(Clone, Copy, Debug)]
pub(in crate::qemu) struct Serial {
    /// The character device.
    pub(in crate::qemu) chardev: &'static str,
}

impl Argument for Serial {
    fn to_args(&self) -> Vec<OsString> {
        vec!["-serial".into(), format!("chardev:{}", self.chardev).into()]
    }
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    #[test]
    fn it_names_its_chardev() {
        assert_eq!(
            words(&Serial { chardev: "console" }),
            "-serial chardev:console"
        );
    }
}
