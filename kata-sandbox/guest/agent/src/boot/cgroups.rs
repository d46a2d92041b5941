//! The controllers of cgroup v2, given to the children of the root group.

use std::path::PathBuf;

use super::BootError;

const ROOT: &str = "/sys/fs/cgroup";

/// Lets child groups use every controller that the kernel has.
pub(super) fn delegate() -> Result<(), BootError> {
    let available = PathBuf::from(ROOT).join("cgroup.controllers");
    let controllers = std::fs::read_to_string(&available).map_err(|source| BootError::File {
        path: available,
        source,
    })?;
    let control = PathBuf::from(ROOT).join("cgroup.subtree_control");
    let request = enable_all(&controllers);
    if request.is_empty() {
        return Ok(());
    }
    std::fs::write(&control, request).map_err(|source| BootError::File {
        path: control,
        source,
    })
}

/// What to write to enable `controllers`.
fn enable_all(controllers: &str) -> String {
    controllers
        .split_ascii_whitespace()
        .map(|name| format!("+{name} "))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_controller_is_asked_for() {
        assert_eq!(enable_all("cpuset cpu io\n"), "+cpuset +cpu +io ");
        assert_eq!(enable_all("\n"), "");
    }
}
