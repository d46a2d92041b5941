//! The proxy's place among the host's control groups: engines read what a
//! container costs from the group of its process id, and that is the group of
//! its virtual machine.

use std::path::{Path, PathBuf};

use kata_sandbox::oci;

use crate::failure::{Failure, Result};

/// The control group that a specification names, if it names any.
///
/// # Errors
/// When it is no unit of systemd and systemd was asked for.
pub(crate) fn of(spec: &oci::Spec, systemd: bool) -> Result<Option<String>> {
    let path = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().as_ref());
    let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(None);
    };
    let path = path.to_string_lossy().into_owned();
    if systemd && path.split(':').count() != 3 {
        return Err(Failure::new(format!(
            "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, \
             got {path:?} instead"
        )));
    }
    Ok(Some(path))
}

/// Puts a process into a group that was made for a sandbox, in each hierarchy
/// that has it. Units of systemd are left to systemd.
pub(crate) fn join(path: &str, pid: u32) {
    if path.contains(':') || path.contains("..") {
        return;
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for hierarchy in hierarchies(&mounts) {
        let processes = hierarchy
            .join(path.trim_start_matches('/'))
            .join("cgroup.procs");
        if !processes.exists() {
            continue;
        }
        if let Err(error) = std::fs::write(&processes, pid.to_string()) {
            log::debug!(error:%; "the proxy is not in {}", processes.display());
        }
    }
}

/// Where control groups are mounted: fields 2 and 3 of `/proc/mounts`.
fn hierarchies(mounts: &str) -> impl Iterator<Item = PathBuf> {
    mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        matches!(kind, "cgroup" | "cgroup2").then(|| Path::new(path).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(path: &str) -> oci::Spec {
        let json =
            format!("{{\"ociVersion\": \"1.0.2\", \"linux\": {{\"cgroupsPath\": \"{path}\"}}}}");
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn a_group_is_a_path_or_a_unit_of_systemd() {
        assert_eq!(of(&spec("/a/b"), false), Ok(Some("/a/b".into())));
        assert_eq!(
            of(&spec("s.slice:p:n"), true),
            Ok(Some("s.slice:p:n".into()))
        );
        assert_eq!(of(&spec(""), true), Ok(None));
        let error = of(&spec("/a"), true).unwrap_err().to_string();
        assert!(error.contains("slice:prefix:name"), "{error}");
    }

    #[test]
    fn hierarchies_are_where_they_are_mounted() {
        let mounts = "proc /proc proc rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found: Vec<_> = hierarchies(mounts).collect();
        assert_eq!(
            found,
            [
                PathBuf::from("/sys/fs/cgroup/cpu"),
                "/sys/fs/cgroup/unified".into()
            ]
        );
    }
}
