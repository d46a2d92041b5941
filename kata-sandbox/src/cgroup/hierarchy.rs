//! Which hierarchies of control groups a host has.

use std::path::PathBuf;

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) mount: PathBuf,
    pub(super) version: Version,
}

/// What a hierarchy is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// Version 2: all controllers in one.
    Unified,
    /// Version 1: these controllers.
    Controllers(Vec<String>),
}

impl Hierarchy {
    /// Where the group is that `/proc/<pid>/cgroup` tells of this hierarchy.
    pub(super) fn group_of(&self, cgroups: &str) -> Option<PathBuf> {
        let path = cgroups.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (names, path) = rest.split_once(':')?;
            let is_it = match &self.version {
                Version::Unified => names.is_empty(),
                Version::Controllers(own) => {
                    names.split(',').any(|name| own.iter().any(|it| it == name))
                }
            };
            is_it.then_some(path)
        })?;
        Some(self.mount.join(path.trim_start_matches('/')))
    }
}

/// The hierarchies in `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`), each
/// once, whose root is mounted.
pub(super) fn all(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for hierarchy in mountinfo.lines().filter_map(read) {
        // Controllers mounted together are one hierarchy under several names.
        let known = |other: &Hierarchy| {
            other.mount == hierarchy.mount || other.version == hierarchy.version
        };
        if !found.iter().any(known) {
            found.push(hierarchy);
        }
    }
    found
}

fn read(line: &str) -> Option<Hierarchy> {
    let (fields, rest) = line.split_once(" - ")?;
    let mount = fields.split(' ').nth(4)?;
    let mut rest = rest.split(' ');
    let (kind, options) = (rest.next()?, rest.nth(1)?);
    let version = match kind {
        "cgroup2" => Version::Unified,
        "cgroup" => {
            let plain = [
                "rw",
                "ro",
                "xattr",
                "clone_children",
                "noprefix",
                "all",
                "none",
            ];
            let names = options
                .split(',')
                .filter(|option| !plain.contains(option) && !option.starts_with("release_agent="));
            Version::Controllers(names.map(str::to_owned).collect())
        }
        _ => return None,
    };
    Some(Hierarchy {
        mount: unescape(mount).into(),
        version,
    })
}

/// Spaces and the like are written in octal.
fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4);
        let code = code.and_then(|code| u8::from_str_radix(code, 8).ok());
        match code {
            Some(code) => {
                plain.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                plain.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 29 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/uni\\040fied rw,relatime - cgroup2 cgroup2 rw
35 30 0:30 / /mnt/again rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_host_with_both_versions_has_each_hierarchy_once() {
        let found = all(HYBRID);
        let mounts: Vec<_> = found.iter().map(|it| it.mount.to_str().unwrap()).collect();
        assert_eq!(
            mounts,
            [
                "/sys/fs/cgroup/cpu",
                "/sys/fs/cgroup/memory",
                "/sys/fs/cgroup/systemd",
                "/sys/fs/cgroup/uni fied"
            ]
        );
        assert_eq!(
            found[0].version,
            Version::Controllers(vec!["cpu".into(), "cpuacct".into()])
        );
        assert_eq!(
            found[2].version,
            Version::Controllers(vec!["name=systemd".into()])
        );
        assert_eq!(found[3].version, Version::Unified);
        let now = "3:memory:/a\n2:cpu,cpuacct:/b/c\n0::/\n";
        let group = |index: usize| found[index].group_of(now);
        assert_eq!(group(0), Some("/sys/fs/cgroup/cpu/b/c".into()));
        assert_eq!(group(1), Some("/sys/fs/cgroup/memory/a".into()));
        assert_eq!(group(2), None);
        assert_eq!(group(3), Some("/sys/fs/cgroup/uni fied/".into()));
    }

    #[test]
    fn lines_that_are_no_hierarchy_are_passed_over() {
        assert_eq!(all("garbage\n\n1 2 3 - ext4 x rw\n- cgroup\n"), []);
        assert_eq!(unescape("a\\b\\04"), "a\\b\\04");
    }
}
