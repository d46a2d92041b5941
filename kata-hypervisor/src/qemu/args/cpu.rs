//! `-cpu` and `-smp`: the virtual processors.

use std::ffi::OsString;

use super::{Argument, Options};

/// The processor model.
#[derive(Clone, Copy, Debug)]
pub(in crate::qemu) struct Cpu(pub(in crate::qemu) &'static str);

impl Argument for Cpu {
    fn to_args(&self) -> Vec<OsString> {
        vec!["-cpu".into(), self.0.into()]
    }
}

/// How many processors there are, and may be.
#[derive(Clone, Copy, Debug)]
pub(in crate::qemu) struct Smp {
    /// At boot.
    pub(in crate::qemu) now: u32,
    /// At most; each is a socket of its own, so that any may be plugged.
    pub(in crate::qemu) most: u32,
}

impl Argument for Smp {
    fn to_args(&self) -> Vec<OsString> {
        let options = Options::new(&self.now.to_string());
        if self.most == self.now {
            return options.into_option("-smp");
        }
        options
            .number("maxcpus", self.most)
            .number("sockets", self.most)
            .number("cores", 1)
            .number("threads", 1)
            .into_option("-smp")
    }
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    #[test]
    fn processors_that_do_not_grow_are_a_number() {
        assert_eq!(words(&Smp { now: 2, most: 2 }), "-smp 2");
        assert_eq!(words(&Cpu("max")), "-cpu max");
    }

    #[test]
    fn processors_that_may_grow_have_sockets_to_spare() {
        assert_eq!(
            words(&Smp { now: 1, most: 4 }),
            "-smp 1,maxcpus=4,sockets=4,cores=1,threads=1"
        );
    }
}
