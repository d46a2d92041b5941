//! What a container has of the host beside files: hooks, and a process id.

use serde::{Deserialize, Serialize};

use super::ContainerSpec;

/// What a container has of the host beside files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OnHost {
    /// Whether hooks may run programs of the host.
    pub(crate) allow_hooks: bool,
    /// What stands for the container among the host's processes.
    pub(crate) pid: Option<u32>,
}

impl ContainerSpec {
    /// Lets the specification's hooks run programs of the host: `prestart` and
    /// `createRuntime` while the container is made, `poststart` after its start,
    /// `poststop` after its end (OCI runtime specification, section "POSIX-platform
    /// Hooks"). Without this, a specification that has any is refused: a library
    /// runs no programs for a file's sake.
    ///
    /// `createContainer` and `startContainer` hooks are programs of the guest,
    /// and always run there.
    #[must_use]
    pub fn allow_host_hooks(mut self) -> Self {
        self.on_host.allow_hooks = true;
        self
    }

    /// The host's process that stands for the container, which hooks are told as
    /// its `pid`; by default 0. Its processes are in the guest, where no hook of
    /// the host can reach them.
    #[must_use]
    pub fn host_pid(mut self, pid: u32) -> Self {
        self.on_host.pid = Some(pid);
        self
    }
}
