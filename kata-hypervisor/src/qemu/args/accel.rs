//! `-accel`: who executes guest code.

use std::ffi::OsString;

use super::{Argument, Options};
use crate::probe::Acceleration;

/// `-accel kvm` or `-accel tcg`.
#[derive(Clone, Copy, Debug)]
pub(in crate::qemu) struct Accel(pub(in crate::qemu) Acceleration);

impl Argument for Accel {
    fn to_args(&self) -> Vec<OsString> {
        let name = match self.0 {
            Acceleration::Kvm => "kvm",
            Acceleration::Emulation => "tcg",
        };
        Options::new(name).into_option("-accel")
    }
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    #[test]
    fn each_acceleration_has_a_name() {
        assert_eq!(words(&Accel(Acceleration::Kvm)), "-accel kvm");
        assert_eq!(words(&Accel(Acceleration::Emulation)), "-accel tcg");
    }
}
