//! `name,key=value,…` with QEMU's escapes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// A value of QEMU's option syntax: a first word, then keys with values, joined
/// by commas. A comma in a value is written twice.
#[derive(Clone, Debug)]
pub(in crate::qemu) struct Options(Vec<u8>);

impl Options {
    /// Begins with the word that comes first, such as the name of a device.
    pub(in crate::qemu) fn new(first: &str) -> Self {
        Self(first.as_bytes().to_vec())
    }

    /// Appends `,key=value`.
    pub(in crate::qemu) fn set(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.push(b',');
        self.0.extend_from_slice(key.as_bytes());
        self.0.push(b'=');
        for &byte in value.as_ref().as_bytes() {
            self.0.push(byte);
            if byte == b',' {
                self.0.push(byte);
            }
        }
        self
    }

    /// Appends `,key=value` for a number.
    pub(in crate::qemu) fn number(self, key: &str, value: impl std::fmt::Display) -> Self {
        self.set(key, value.to_string())
    }

    /// The two words `-option value`.
    pub(in crate::qemu) fn into_option(self, option: &str) -> Vec<OsString> {
        vec![option.into(), OsString::from_vec(self.0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_value_is_doubled() {
        let args = Options::new("socket")
            .set("path", "/a,b")
            .number("n", 3)
            .into_option("-chardev");
        assert_eq!(args, ["-chardev", "socket,path=/a,,b,n=3"]);
    }

    #[test]
    fn a_path_need_not_be_text() {
        let path = OsStr::from_bytes(b"/\xff");
        let args = Options::new("x").set("path", path).into_option("-o");
        assert_eq!(args[1].as_bytes(), b"x,path=/\xff");
    }
}
