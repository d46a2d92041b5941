//! What network a sandbox has, from the network namespace that its
//! specification names.

use std::path::PathBuf;

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
}

impl SandboxNetwork {
    pub(crate) fn attach(self, builder: SandboxBuilder) -> SandboxBuilder {
        match self {
            Self::None => builder.network(network::None),
            Self::Namespace(path) => builder.network(network::NetNs::new(path)),
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

/// Reads a sandbox's network off `linux.namespaces`. `prepared` is the process
/// in whose new namespace hooks have made interfaces.
///
/// # Errors
/// For the host's network, which no virtual machine can have.
pub(crate) fn of(spec: &oci::Spec, prepared: Option<u32>) -> Result<SandboxNetwork> {
    match (namespace(spec), prepared) {
        (None, _) => Err(Failure::new(
            "linux.namespaces has no network namespace: a virtual machine cannot have the \
             host's network; give the container one of its own",
        )),
        (Some(Netns::Join(path)), _) => Ok(SandboxNetwork::Namespace(path)),
        (Some(Netns::Own), Some(pid)) => {
            let path = format!("/proc/{pid}/ns/net").into();
            Ok(SandboxNetwork::Namespace(path))
        }
        (Some(Netns::Own), None) => Ok(SandboxNetwork::None),
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
        let error = of(&spec("{\"type\": \"pid\"}"), None).unwrap_err();
        assert!(error.to_string().contains("linux.namespaces"), "{error}");
    }

    #[test]
    fn a_namespace_is_adopted_where_somebody_has_prepared_it() {
        let own = spec("{\"type\": \"network\"}");
        assert_eq!(of(&own, None), Ok(SandboxNetwork::None));
        assert_eq!(
            of(&own, Some(7)),
            Ok(SandboxNetwork::Namespace("/proc/7/ns/net".into()))
        );
        let named = spec("{\"type\": \"network\", \"path\": \"/run/netns/a\"}");
        assert_eq!(
            of(&named, None),
            Ok(SandboxNetwork::Namespace("/run/netns/a".into()))
        );
        assert_eq!(namespace(&named), Some(Netns::Join("/run/netns/a".into())));
    }
}
