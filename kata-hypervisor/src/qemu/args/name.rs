//! `-name`: what the machine is called in lists of processes.

use std::ffi::OsString;

use super::{Argument, Options};

/// The machine's name.
#[derive(Clone, Debug)]
pub(in crate::qemu) struct Name(pub(in crate::qemu) String);

impl Argument for Name {
    fn to_args(&self) -> Vec<OsString> {
        // The first word needs the same escapes as a value.
        Options::new(&format!("guest={}", self.0.replace(',', ",,"))).into_option("-name")
    }
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    #[test]
    fn a_comma_stays_in_the_name() {
        assert_eq!(words(&Name("a,b".into())), "-name guest=a,,b");
    }
}
