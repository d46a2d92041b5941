//! Namespaces that a container has in common with others of its sandbox.

use std::path::PathBuf;

use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};

use super::ContainerSpec;

/// Namespaces that a container has in common with others of its sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sharing {
    /// Whether it is in the sandbox's own pid namespace.
    pub(crate) pid: bool,
    /// Whose namespaces it joins, by container.
    pub(crate) joins: Vec<(Namespace, String)>,
}

/// A namespace that a container can have in common with another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Namespace {
    /// Process ids: each sees the other's processes.
    Pid,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host and domain name.
    Uts,
}

impl Namespace {
    /// As the specification calls it.
    pub(crate) fn kind(self) -> oci::LinuxNamespaceType {
        match self {
            Self::Pid => oci::LinuxNamespaceType::Pid,
            Self::Ipc => oci::LinuxNamespaceType::Ipc,
            Self::Uts => oci::LinuxNamespaceType::Uts,
        }
    }

    /// Its name in `/proc/<pid>/ns`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pid => "pid",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
        }
    }
}

impl ContainerSpec {
    /// Puts the container into the pid namespace that the sandbox's containers
    /// share, if they do: see
    /// [`SandboxBuilder::share_process_ids`](crate::SandboxBuilder::share_process_ids),
    /// which does this for all of them.
    #[must_use]
    pub fn share_pid(mut self) -> Self {
        self.sharing.pid = true;
        self
    }

    /// Puts the container into that namespace of another container of the
    /// sandbox, which runs. Containers of a sandbox share IPC and host name
    /// without this, as those of a pod do.
    #[must_use]
    pub fn join(mut self, namespace: Namespace, container: impl Into<String>) -> Self {
        self.sharing.joins.retain(|(kind, _)| *kind != namespace);
        self.sharing.joins.push((namespace, container.into()));
        self
    }

    /// The network namespace of the host that the specification names, which is
    /// for the sandbox's network: containers have the sandbox's.
    #[must_use]
    pub fn network_namespace(&self) -> Option<PathBuf> {
        let namespaces = self.spec.linux().as_ref()?.namespaces().as_ref()?;
        namespaces
            .iter()
            .find(|namespace| namespace.typ() == oci::LinuxNamespaceType::Network)?
            .path()
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rootfs;

    #[test]
    fn the_network_namespace_is_the_one_that_a_path_names() {
        let spec = ContainerSpec::new(Rootfs::Dir("/".into()));
        assert_eq!(spec.network_namespace(), None);
        let spec = spec.edit_oci(|spec| {
            let namespaces = r#"[{"type": "pid"}, {"type": "network", "path": "/run/netns/a"}]"#;
            let namespaces = serde_json::from_str(namespaces).unwrap();
            let linux = spec.linux_mut().as_mut().unwrap();
            linux.set_namespaces(Some(namespaces));
        });
        assert_eq!(spec.network_namespace(), Some("/run/netns/a".into()));
    }

    #[test]
    fn the_last_container_named_for_a_namespace_counts() {
        let spec = ContainerSpec::new(Rootfs::Dir("/".into()))
            .join(Namespace::Pid, "a")
            .join(Namespace::Ipc, "a")
            .join(Namespace::Pid, "b");
        let joins = [
            (Namespace::Ipc, "a".to_owned()),
            (Namespace::Pid, "b".to_owned()),
        ];
        assert_eq!(spec.sharing.joins, joins);
    }
}
