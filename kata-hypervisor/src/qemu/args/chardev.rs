//! `-chardev`: where bytes come from and go to.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

use super::{Argument, Options};

/// A character device's host side.
#[derive(Clone, Debug)]
pub(in crate::qemu) struct Chardev {
    /// The id by which a device names it.
    pub(in crate::qemu) id: String,
    /// Where its bytes go.
    pub(in crate::qemu) backend: Backend,
}

/// Where a character device's bytes go.
#[derive(Clone, Debug)]
pub(in crate::qemu) enum Backend {
    /// A connected socket that QEMU inherits.
    Inherited(RawFd),
    /// A socket that somebody listens on. A network's vhost-user back end must be
    /// one: QEMU passes no descriptors to it over an inherited socket.
    Socket(PathBuf),
    /// Standard input and output.
    Stdio,
}

impl Argument for Chardev {
    fn to_args(&self) -> Vec<OsString> {
        match &self.backend {
            Backend::Inherited(fd) => Options::new("socket")
                .set("id", &self.id)
                .number("fd", fd)
                .into_option("-chardev"),
            Backend::Socket(path) => Options::new("socket")
                .set("id", &self.id)
                .set("path", path)
                .into_option("-chardev"),
            Backend::Stdio => Options::new("stdio")
                .set("id", &self.id)
                .set("signal", "off")
                .into_option("-chardev"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    fn chardev(backend: Backend) -> String {
        words(&Chardev {
            id: "c".into(),
            backend,
        })
    }

    #[test]
    fn each_backend_is_spelled() {
        assert_eq!(chardev(Backend::Inherited(9)), "-chardev socket,id=c,fd=9");
        let socket = Backend::Socket("/a,b".into());
        assert_eq!(chardev(socket), "-chardev socket,id=c,path=/a,,b");
        assert_eq!(chardev(Backend::Stdio), "-chardev stdio,id=c,signal=off");
    }
}
