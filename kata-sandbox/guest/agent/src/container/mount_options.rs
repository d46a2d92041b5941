//! Mount options of the OCI specification.

use kata_protocol::ttrpc::Status;
use rustix::mount::{MountFlags, MountPropagationFlags};

use crate::files::{
    ATIME, Attributes, NOATIME, NODEV, NODIRATIME, NOEXEC, NOSUID, NOSYMFOLLOW, RDONLY, RELATIME,
    STRICTATIME,
};
use crate::process::refuse;

/// Options, sorted by how they are applied.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// A bind mount; with the mounts below it if true.
    pub(super) bind: Option<bool>,
    /// For the mount alone.
    pub(super) attributes: Attributes,
    /// For the mount and those below it.
    pub(super) recursive: Attributes,
    /// Applied once it is mounted, in this order.
    pub(super) propagation: Vec<MountPropagationFlags>,
    /// Of the file system rather than the mount: bits of [`MountFlags`].
    synchronous: u32,
    /// Ids are mapped; below it too if true.
    pub(super) map_ids: Option<bool>,
    /// It changes a mount that is there.
    pub(super) remount: bool,
    /// What the mount covers is copied into it.
    pub(super) copy_up: bool,
    /// What the file system itself is told.
    pub(super) data: String,
}

impl Options {
    /// Sorts options.
    ///
    /// # Errors
    /// When one is known and cannot be honoured.
    pub(super) fn parse(options: &[String]) -> Result<Self, Status> {
        let mut parsed = Self::default();
        for option in options {
            if !parsed.flag(option)? {
                if !parsed.data.is_empty() {
                    parsed.data.push(',');
                }
                parsed.data.push_str(option);
            }
        }
        Ok(parsed)
    }

    /// The flags as mount(2) takes them.
    pub(super) fn flags(&self) -> MountFlags {
        let mut flags = MountFlags::from_bits_retain(self.synchronous);
        let set = self.attributes.set | self.recursive.set;
        for (attribute, flag) in [
            (RDONLY, MountFlags::RDONLY),
            (NOSUID, MountFlags::NOSUID),
            (NODEV, MountFlags::NODEV),
            (NOEXEC, MountFlags::NOEXEC),
            (NODIRATIME, MountFlags::NODIRATIME),
            (NOSYMFOLLOW, MountFlags::NOSYMFOLLOW),
        ] {
            flags.set(flag, set & attribute != 0);
        }
        match set & ATIME {
            NOATIME => flags |= MountFlags::NOATIME,
            STRICTATIME => flags |= MountFlags::STRICTATIME,
            _ => flags |= MountFlags::RELATIME,
        }
        flags
    }

    /// Whether the mount is to be read-only.
    pub(super) fn is_read_only(&self) -> bool {
        (self.attributes.set | self.recursive.set) & RDONLY != 0
    }

    /// Takes an option that is no matter of the file system.
    fn flag(&mut self, option: &str) -> Result<bool, Status> {
        if let Some(attributes) = attribute(option) {
            merge(&mut self.attributes, attributes);
            return Ok(true);
        }
        if let Some(attributes) = option.strip_prefix('r').and_then(attribute)
            && option != "relatime"
        {
            merge(&mut self.recursive, attributes);
            return Ok(true);
        }
        match option {
            "bind" => self.bind = self.bind.or(Some(false)),
            "rbind" => self.bind = Some(true),
            "idmap" => self.map_ids = Some(false),
            "ridmap" => self.map_ids = Some(true),
            "sync" => self.synchronous |= MountFlags::SYNCHRONOUS.bits(),
            "dirsync" => self.synchronous |= MountFlags::DIRSYNC.bits(),
            "lazytime" => self.synchronous |= 1 << 25,
            "silent" => self.synchronous |= MountFlags::SILENT.bits(),
            "iversion" => self.synchronous |= 1 << 23,
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            "mand" => self.synchronous |= MountFlags::PERMIT_MANDATORY_FILE_LOCKING.bits(),
            // What is so unless said otherwise, or is for other programs.
            "defaults" | "async" | "loud" | "nolazytime" | "nomand" | "noiversion" | "_netdev"
            | "nofail" | "auto" | "noauto" | "user" | "nouser" => {}
            // The links below a mount would have to be copied one by one.
            "copy-symlink" => {
                return Err(refuse("the mount option copy-symlink is not supported"));
            }
            other => match propagation(other) {
                Some(flags) => self.propagation.push(flags),
                None => return Ok(false),
            },
        }
        Ok(true)
    }
}

/// A later option undoes an earlier one.
fn merge(into: &mut Attributes, option: Attributes) {
    into.set = into.set & !option.clear | option.set;
    into.clear |= option.clear;
}

fn attribute(option: &str) -> Option<Attributes> {
    let set = |set| Attributes { set, clear: 0 };
    let clear = |clear| Attributes { set: 0, clear };
    let access_time = |set| Attributes { set, clear: ATIME };
    Some(match option {
        "ro" => set(RDONLY),
        "rw" => clear(RDONLY),
        "nosuid" => set(NOSUID),
        "suid" => clear(NOSUID),
        "nodev" => set(NODEV),
        "dev" => clear(NODEV),
        "noexec" => set(NOEXEC),
        "exec" => clear(NOEXEC),
        "nodiratime" => set(NODIRATIME),
        "diratime" => clear(NODIRATIME),
        "nosymfollow" => set(NOSYMFOLLOW),
        "symfollow" => clear(NOSYMFOLLOW),
        "noatime" => access_time(NOATIME),
        "strictatime" => access_time(STRICTATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => access_time(RELATIME),
        _ => return None,
    })
}

pub(super) fn propagation(name: &str) -> Option<MountPropagationFlags> {
    use MountPropagationFlags as Flags;
    let (name, recursive) = match name.strip_prefix('r') {
        Some(name) => (name, Flags::REC),
        None => (name, Flags::empty()),
    };
    Some(
        recursive
            | match name {
                "shared" => Flags::SHARED,
                "slave" => Flags::DOWNSTREAM,
                "private" => Flags::PRIVATE,
                "unbindable" => Flags::UNBINDABLE,
                _ => return None,
            },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Options {
        Options::parse(&options.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn options_are_sorted_by_what_they_concern() {
        let options = parse(&[
            "rbind", "ro", "nosuid", "rprivate", "rnoexec", "size=64k", "mode=1",
        ]);
        assert_eq!(options.bind, Some(true));
        assert_eq!(
            options.attributes,
            Attributes {
                set: RDONLY | NOSUID,
                clear: 0
            }
        );
        assert_eq!(
            options.recursive,
            Attributes {
                set: NOEXEC,
                clear: 0
            }
        );
        assert_eq!(
            options.propagation,
            [MountPropagationFlags::PRIVATE | MountPropagationFlags::REC]
        );
        assert_eq!(options.data, "size=64k,mode=1");
    }

    #[test]
    fn the_last_of_two_opposites_counts() {
        assert!(!parse(&["ro", "rw"]).is_read_only());
        assert!(parse(&["rw", "ro"]).is_read_only());
        assert!(parse(&["bind", "rro"]).is_read_only());
    }

    #[test]
    fn relatime_is_no_recursive_elatime() {
        let options = parse(&["relatime", "rrelatime"]);
        assert_eq!(options.attributes.clear, ATIME);
        assert_eq!(options.recursive.clear, ATIME);
        assert!(options.data.is_empty());
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        assert!(Options::parse(&["copy-symlink".into()]).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_options_make_it_panic(options: Vec<String>) {
            if let Ok(parsed) = Options::parse(&options) {
                let _ = parsed.flags();
            }
        }
    }
}
