//! What network a sandbox has, from the network namespace that its
//! specification names.

use std::path::{Path, PathBuf};

use kata_sandbox::{SandboxBuilder, network, oci};

use crate::failure::{Failure, Result};
use crate::proxy::Netns;

/// The network of a sandbox.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SandboxNetwork {
    /// Its own loopback, and nothing else.
    None,
    /// What is in the network namespace of that path.
    Namespace(PathBuf),
    /// What will be in the new one of that path when the container is started.
    Later(PathBuf),
}

impl SandboxNetwork {
    pub(crate) fn attach(self, builder: SandboxBuilder) -> SandboxBuilder {
        match self {
            Self::None => builder.network(network::None),
            Self::Namespace(path) => builder.network(network::NetNs::new(path)),
            Self::Later(path) => builder.network(network::NetNs::new(path).devices_ahead(1)),
        }
    }
}

/// The namespace that a container's proxy is to be in.
pub(crate) fn namespace(spec: &oci::Spec) -> Option<Netns> {
    let own = find(spec)?;
    Some(match own.path() {
        Some(path) if !path.as_os_str().is_empty() => Netns::Join(path.clone()),
        _ => Netns::Own,
    })
}

/// What a process in a new network namespace stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prepared {
    /// Hooks have filled it.
    By(u32),
    /// Whoever called may fill it until the container is started.
    NotYet(u32),
    /// Nobody can: this user may connect nothing to it.
    Never,
}

impl Prepared {
    /// Of the process of that id, after hooks have run if there were any.
    pub(crate) fn of(pid: u32, by_hooks: bool) -> Self {
        let able = rustix::process::geteuid().is_root() && Path::new(TUN).exists();
        match (by_hooks, able) {
            (true, _) => Self::By(pid),
            (false, true) => Self::NotYet(pid),
            (false, false) => Self::Never,
        }
    }
}

/// By which taps are made.
const TUN: &str = "/dev/net/tun";

/// Reads a sandbox's network off `linux.namespaces`.
///
/// # Errors
/// For the host's network, which no virtual machine can have.
pub(crate) fn of(spec: &oci::Spec, prepared: Prepared) -> Result<SandboxNetwork> {
    let path = |pid: u32| PathBuf::from(format!("/proc/{pid}/ns/net"));
    match (namespace(spec), prepared) {
        (None, _) => Err(Failure::new(
            "linux.namespaces has no network namespace: a virtual machine cannot have the \
             host's network; give the container one of its own",
        )),
        (Some(Netns::Join(path)), _) => Ok(SandboxNetwork::Namespace(path)),
        (Some(Netns::Own), Prepared::By(pid)) => Ok(SandboxNetwork::Namespace(path(pid))),
        (Some(Netns::Own), Prepared::NotYet(pid)) => Ok(SandboxNetwork::Later(path(pid))),
        (Some(Netns::Own), Prepared::Never) => Ok(SandboxNetwork::None),
    }
}

fn find(spec: &oci::Spec) -> Option<&oci::LinuxNamespace> {
    let namespaces = spec.linux().as_ref()?.namespaces().as_ref()?;
    namespaces
        .iter()
        .find(|namespace| namespace.typ() == oci::LinuxNamespaceType::Network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(namespaces: &str) -> oci::Spec {
        let json =
            format!("{{\"ociVersion\": \"1.0.2\", \"linux\": {{\"namespaces\": [{namespaces}]}}}}");
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn the_hosts_network_is_refused_by_field() {
        let error = of(&spec("{\"type\": \"pid\"}"), Prepared::Never).unwrap_err();
        assert!(error.to_string().contains("linux.namespaces"), "{error}");
    }

    #[test]
    fn a_namespace_is_adopted_where_somebody_has_prepared_it() {
        let own = spec("{\"type\": \"network\"}");
        assert_eq!(of(&own, Prepared::Never), Ok(SandboxNetwork::None));
        let path = PathBuf::from("/proc/7/ns/net");
        assert_eq!(
            of(&own, Prepared::By(7)),
            Ok(SandboxNetwork::Namespace(path.clone()))
        );
        assert_eq!(
            of(&own, Prepared::NotYet(7)),
            Ok(SandboxNetwork::Later(path))
        );
        let named = spec("{\"type\": \"network\", \"path\": \"/run/netns/a\"}");
        assert_eq!(
            of(&named, Prepared::NotYet(7)),
            Ok(SandboxNetwork::Namespace("/run/netns/a".into()))
        );
        assert_eq!(namespace(&named), Some(Netns::Join("/run/netns/a".into())));
    }
}
