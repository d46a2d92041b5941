//! Mount options: those that are flags of the mount, and those that are the
//! file system's.

use std::ffi::CString;

use kata_protocol::ttrpc::Status;
use rustix::mount::MountFlags;

use crate::service::invalid;

/// Options in the two forms that `mount(2)` takes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) flags: MountFlags,
    pub(super) data: CString,
}

const FLAGS: [(&str, MountFlags); 10] = [
    ("ro", MountFlags::RDONLY),
    ("nosuid", MountFlags::NOSUID),
    ("nodev", MountFlags::NODEV),
    ("noexec", MountFlags::NOEXEC),
    ("sync", MountFlags::SYNCHRONOUS),
    ("dirsync", MountFlags::DIRSYNC),
    ("noatime", MountFlags::NOATIME),
    ("nodiratime", MountFlags::NODIRATIME),
    ("relatime", MountFlags::RELATIME),
    ("strictatime", MountFlags::STRICTATIME),
];

/// Options that undo one of the above, or that are the default.
const CLEAR: [(&str, MountFlags); 6] = [
    ("rw", MountFlags::RDONLY),
    ("suid", MountFlags::NOSUID),
    ("dev", MountFlags::NODEV),
    ("exec", MountFlags::NOEXEC),
    ("async", MountFlags::SYNCHRONOUS),
    ("atime", MountFlags::NOATIME),
];

/// Options that say what kind of mount it is, which the driver says here.
const IGNORED: [&str; 3] = ["bind", "rbind", "defaults"];

/// Sorts options into flags and data; each may itself be a list with commas.
pub(super) fn parse(options: &[String]) -> Result<Options, Status> {
    let mut flags = MountFlags::empty();
    let mut data = Vec::new();
    for option in options.iter().flat_map(|list| list.split(',')) {
        if let Some((_, flag)) = FLAGS.iter().find(|(name, _)| *name == option) {
            flags.insert(*flag);
        } else if let Some((_, flag)) = CLEAR.iter().find(|(name, _)| *name == option) {
            flags.remove(*flag);
        } else if !option.is_empty() && !IGNORED.contains(&option) {
            data.push(option);
        }
    }
    let data =
        CString::new(data.join(",")).map_err(|_| invalid("a mount option contains a zero byte"))?;
    Ok(Options { flags, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_data_are_told_apart() {
        let list = ["nodev,ro", "rw", "size=1m", "", "mode=1777"].map(str::to_owned);
        let options = parse(&list).unwrap();
        assert_eq!(options.flags, MountFlags::NODEV);
        assert_eq!(options.data.as_c_str(), c"size=1m,mode=1777");
    }

    #[test]
    fn a_zero_byte_is_refused() {
        assert!(parse(&["a\0b".to_owned()]).is_err());
    }
}
