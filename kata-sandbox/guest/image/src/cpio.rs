//! An initramfs archive: cpio in the "newc" format that the kernel unpacks
//! (kernel documentation, *initramfs buffer format*). The same entries give the
//! same bytes: sorted by path, owned by root, dated 1970.

use std::collections::BTreeMap;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entry {
    /// A directory.
    Directory {
        /// Permission bits.
        mode: u32,
    },
    /// A regular file.
    File {
        /// Permission bits.
        mode: u32,
        /// What is in it.
        bytes: Vec<u8>,
    },
    /// A symbolic link to this path.
    Link(String),
    /// A character device.
    Character {
        /// Permission bits.
        mode: u32,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// An archive that is being put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

const DIRECTORY: u32 = 0o040_000;
const CHARACTER: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;
const SYMBOLIC_LINK: u32 = 0o120_000;
/// The last entry's name.
const TRAILER: &str = "TRAILER!!!";
/// Archives are padded to whole blocks of this many bytes.
const BLOCK: usize = 512;

impl Archive {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `entry` at `path`, in place of what is there; directories above it
    /// are made with mode 755. A leading `/` is dropped.
    pub fn insert(&mut self, path: &str, entry: Entry) -> &mut Self {
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/') {
            let parent = self.entries.entry(path[..at].to_owned());
            parent.or_insert(Entry::Directory { mode: 0o755 });
        }
        self.entries.insert(path.to_owned(), entry);
        self
    }

    /// The entries, by path.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries
            .iter()
            .map(|(path, entry)| (path.as_str(), entry))
    }

    /// The archive's bytes; `None` when a file is larger than the format's
    /// 4 GiB.
    #[must_use]
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let mut output = Vec::new();
        for (index, (path, entry)) in self.entries.iter().enumerate() {
            append(&mut output, u32::try_from(index + 1).ok()?, path, entry)?;
        }
        append(
            &mut output,
            0,
            TRAILER,
            &Entry::File {
                mode: 0,
                bytes: vec![],
            },
        )?;
        output.resize(output.len().next_multiple_of(BLOCK), 0);
        Some(output)
    }
}

fn append(output: &mut Vec<u8>, inode: u32, path: &str, entry: &Entry) -> Option<()> {
    let (mode, links, device, body): (u32, u32, (u32, u32), &[u8]) = match entry {
        Entry::Directory { mode } => (DIRECTORY | mode, 2, (0, 0), &[]),
        Entry::File { mode: 0, .. } if path == TRAILER => (0, 1, (0, 0), &[]),
        Entry::File { mode, bytes } => (REGULAR | mode, 1, (0, 0), bytes),
        Entry::Link(target) => (SYMBOLIC_LINK | 0o777, 1, (0, 0), target.as_bytes()),
        Entry::Character { mode, major, minor } => (CHARACTER | mode, 1, (*major, *minor), &[]),
    };
    let size = u32::try_from(body.len()).ok()?;
    let name_size = u32::try_from(path.len() + 1).ok()?;
    output.extend(b"070701");
    // inode, mode, uid, gid, links, time, size, device, special device, name, checksum
    for field in [
        inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0,
    ] {
        output.extend(format!("{field:08x}").bytes());
    }
    output.extend(path.bytes());
    output.push(0);
    output.resize(output.len().next_multiple_of(4), 0);
    output.extend(body);
    output.resize(output.len().next_multiple_of(4), 0);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    /// A reader that knows the format only from its description.
    fn read(mut bytes: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
        let total = bytes.len();
        let mut found = BTreeMap::new();
        loop {
            assert_eq!(&bytes[..6], b"070701", "at {}", total - bytes.len());
            let field = |index: usize| {
                let text = &bytes[6 + index * 8..14 + index * 8];
                u32::from_str_radix(std::str::from_utf8(text).unwrap(), 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            let body = (110 + name_size).next_multiple_of(4);
            if name == TRAILER {
                return found;
            }
            assert!(
                found
                    .insert(name, (mode, bytes[body..body + size].to_vec()))
                    .is_none()
            );
            bytes = &bytes[(body + size).next_multiple_of(4)..];
        }
    }

    fn sample() -> Archive {
        let mut archive = Archive::new();
        archive
            .insert(
                "/init",
                Entry::File {
                    mode: 0o755,
                    bytes: b"agent".to_vec(),
                },
            )
            .insert(
                "/dev/console",
                Entry::Character {
                    mode: 0o600,
                    major: 5,
                    minor: 1,
                },
            )
            .insert(
                "/etc/kata/modules",
                Entry::File {
                    mode: 0o644,
                    bytes: vec![],
                },
            )
            .insert("/bin", Entry::Link("usr/bin".into()));
        archive
    }

    #[test]
    fn directories_above_an_entry_are_made_before_it() {
        let paths: Vec<_> = sample()
            .entries()
            .map(|(path, _)| path.to_owned())
            .collect();
        let expected = [
            "bin",
            "dev",
            "dev/console",
            "etc",
            "etc/kata",
            "etc/kata/modules",
            "init",
        ];
        assert_eq!(paths, expected);
    }

    #[test]
    fn entries_come_back_with_their_kind_and_mode() {
        let found = read(&sample().to_bytes().unwrap());
        assert_eq!(found["init"], (0o100_755, b"agent".to_vec()));
        assert_eq!(found["dev/console"], (0o020_600, vec![]));
        assert_eq!(found["bin"], (0o120_777, b"usr/bin".to_vec()));
        assert_eq!(found["etc/kata"], (0o040_755, vec![]));
    }

    #[test]
    fn the_cpio_tool_lists_what_was_put_in() {
        let spawned = Command::new("cpio")
            .args(["--list", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = spawned else {
            eprintln!("skipped: cpio is not installed");
            return;
        };
        child
            .stdin
            .take()
            .unwrap()
            .write_all(&sample().to_bytes().unwrap())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let listed = String::from_utf8(output.stdout).unwrap();
        let expected = "bin\ndev\ndev/console\netc\netc/kata\netc/kata/modules\ninit\n";
        assert_eq!(listed, expected);
    }

    proptest! {
        #[test]
        fn files_come_back_whatever_their_names_and_sizes(
            files in proptest::collection::btree_map("[a-z]{1,9}", any::<Vec<u8>>(), 0..9),
        ) {
            let mut archive = Archive::new();
            for (name, bytes) in files.iter().rev() {
                archive.insert(name, Entry::File { mode: 0o644, bytes: bytes.clone() });
            }
            let expected: BTreeMap<_, _> =
                files.into_iter().map(|(name, bytes)| (name, (0o100_644, bytes))).collect();
            prop_assert_eq!(read(&archive.to_bytes().unwrap()), expected);
        }
    }
}
