//! The proxy's place among the host's control groups: engines read what a
//! container costs from the group of its process id, and that is the group of
//! its virtual machine.

use std::path::{Path, PathBuf};

use kata_sandbox::oci;

use crate::failure::{Failure, Result};
use crate::state::Record;

/// Where a systemd that runs has its state (`sd_booted(3)`).
const SYSTEMD: &str = "/run/systemd/system";

/// The control group that a specification names, if it names any.
///
/// # Errors
/// When systemd was asked for, and it does not run or the group is no unit of it.
pub(crate) fn of(spec: &oci::Spec, systemd: bool) -> Result<Option<String>> {
    if systemd && !Path::new(SYSTEMD).is_dir() {
        return Err(Failure::new(
            "systemd not running on this host, cannot use systemd cgroups manager",
        ));
    }
    named(spec, systemd)
}

fn named(spec: &oci::Spec, systemd: bool) -> Result<Option<String>> {
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

/// Puts the proxy into the group that was made for its sandbox, in each hierarchy
/// that has it.
pub(crate) fn join(path: &str, pid: u32) {
    for group in groups(path) {
        enter(&group, pid);
    }
}

/// Makes a group for a proxy whose container joins a pod's sandbox, which is in
/// another. A group of its caller's, where it would be without, costs what its
/// caller does.
pub(crate) fn join_own(path: &str, pid: u32) {
    for group in groups(path) {
        match std::fs::create_dir_all(&group) {
            Ok(()) => enter(&group, pid),
            Err(error) => log::debug!(error:%; "no control group {}", group.display()),
        }
    }
}

/// Removes what was made for a container that joined a sandbox. A group that
/// somebody else uses stays.
pub(crate) fn remove(record: &Record) {
    let Some(path) = record.cgroup.as_deref().filter(|_| !record.owns_sandbox) else {
        return;
    };
    for group in groups(path) {
        match std::fs::remove_dir(&group) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                log::debug!(error:%; "the control group {} stays", group.display());
            }
            _ => {}
        }
    }
}

fn enter(group: &Path, pid: u32) {
    let processes = group.join("cgroup.procs");
    if !processes.exists() {
        return;
    }
    // cgroup v1: a group of the cpuset hierarchy takes nobody before it has both.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        inherit(group, file);
    }
    if let Err(error) = std::fs::write(&processes, pid.to_string()) {
        log::debug!(error:%; "the proxy is not in {}", processes.display());
    }
}

fn inherit(group: &Path, file: &str) {
    let own = std::fs::read_to_string(group.join(file));
    let above = group.parent().map(|above| above.join(file));
    if own.is_ok_and(|own| own.trim().is_empty())
        && let Some(Ok(above)) = above.map(std::fs::read_to_string)
    {
        // What it lacks, the next line's error tells.
        let _ = std::fs::write(group.join(file), above.trim());
    }
}

/// A group's directory in each hierarchy.
fn groups(path: &str) -> Vec<PathBuf> {
    let Ok(below) = kata_sandbox::cgroup_path(path) else {
        return Vec::new();
    };
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    hierarchies(&mounts)
        .map(|hierarchy| hierarchy.join(&below))
        .collect()
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
        assert_eq!(named(&spec("/a/b"), false), Ok(Some("/a/b".into())));
        assert_eq!(
            named(&spec("s.slice:p:n"), true),
            Ok(Some("s.slice:p:n".into()))
        );
        assert_eq!(named(&spec(""), true), Ok(None));
        let error = named(&spec("/a"), true).unwrap_err().to_string();
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
