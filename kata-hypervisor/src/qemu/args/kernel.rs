//! `-kernel`, `-initrd`, `-append`: what is booted.

use std::ffi::OsString;
use std::path::PathBuf;

use super::Argument;

/// A kernel that is loaded without firmware's help.
#[derive(Clone, Debug)]
pub(in crate::qemu) struct Kernel {
    /// The kernel's file.
    pub(in crate::qemu) image: PathBuf,
    /// The initramfs's file.
    pub(in crate::qemu) initramfs: Option<PathBuf>,
    /// The whole command line.
    pub(in crate::qemu) command_line: String,
}

impl Argument for Kernel {
    fn to_args(&self) -> Vec<OsString> {
        let mut args = vec!["-kernel".into(), self.image.clone().into_os_string()];
        if let Some(initramfs) = &self.initramfs {
            args.extend(["-initrd".into(), initramfs.clone().into_os_string()]);
        }
        args.extend(["-append".into(), OsString::from(&self.command_line)]);
        args
    }
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    #[test]
    fn the_initramfs_may_be_absent() {
        let mut kernel = Kernel {
            image: "/k".into(),
            initramfs: Some("/i".into()),
            command_line: "quiet".into(),
        };
        assert_eq!(words(&kernel), "-kernel /k -initrd /i -append quiet");
        kernel.initramfs = None;
        assert_eq!(words(&kernel), "-kernel /k -append quiet");
    }
}
