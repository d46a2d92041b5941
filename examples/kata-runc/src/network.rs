//! What network a sandbox has, from the network namespace that its
//! specification names.

use kata_sandbox::{SandboxBuilder, network, oci};

use crate::failure::{Failure, Result};

/// The network of a sandbox.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SandboxNetwork {
    /// Its own loopback, and nothing else.
    None,
}

impl SandboxNetwork {
    pub(crate) fn attach(self, builder: SandboxBuilder) -> SandboxBuilder {
        match self {
            Self::None => builder.network(network::None),
        }
    }
}

/// Reads it off `linux.namespaces`.
///
/// # Errors
/// For the host's network, which no virtual machine can have.
pub(crate) fn of(spec: &oci::Spec) -> Result<SandboxNetwork> {
    let namespaces = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_ref());
    let own = namespaces
        .into_iter()
        .flatten()
        .find(|namespace| namespace.typ() == oci::LinuxNamespaceType::Network);
    match own {
        None => Err(Failure::new(
            "linux.namespaces has no network namespace: a virtual machine cannot have the \
             host's network; give the container one of its own",
        )),
        Some(_) => Ok(SandboxNetwork::None),
    }
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
        let error = of(&spec("{\"type\": \"pid\"}")).unwrap_err().to_string();
        assert!(error.contains("linux.namespaces"), "{error}");
        assert_eq!(
            of(&spec("{\"type\": \"network\"}")),
            Ok(SandboxNetwork::None)
        );
    }
}
