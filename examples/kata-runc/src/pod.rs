//! Whose virtual machine a container runs in: its own, or its pod's.

use std::collections::BTreeMap;

use crate::failure::{Failure, Result};

/// The keys by which engines tell what a container is, and which container its
/// pod began with: containerd's CRI plugin, then CRI-O, whose keys Podman uses.
const KEYS: [(&str, &str); 2] = [
    (
        "io.kubernetes.cri.container-type",
        "io.kubernetes.cri.sandbox-id",
    ),
    (
        "io.kubernetes.cri-o.ContainerType",
        "io.kubernetes.cri-o.SandboxID",
    ),
];

/// What a container is to its pod.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Membership {
    /// It has a virtual machine of its own, be it a pod's first container or in
    /// no pod.
    Own,
    /// It joins the virtual machine of that container.
    Joins(String),
}

/// What the annotations of `id` make it.
pub(crate) fn membership(id: &str, annotations: &BTreeMap<String, String>) -> Result<Membership> {
    for (kind_key, sandbox_key) in KEYS {
        let Some(kind) = annotations.get(kind_key) else {
            continue;
        };
        return match kind.as_str() {
            "sandbox" => Ok(Membership::Own),
            "container" => match annotations.get(sandbox_key).map(String::as_str) {
                Some(sandbox) if sandbox == id => Ok(Membership::Own),
                Some(sandbox) if !sandbox.is_empty() => Ok(Membership::Joins(sandbox.to_owned())),
                _ => Err(Failure::new(format!(
                    "annotation {kind_key} is \"container\", and {sandbox_key} names no sandbox"
                ))),
            },
            other => Err(Failure::new(format!(
                "annotation {kind_key} is {other:?}, neither \"sandbox\" nor \"container\""
            ))),
        };
    }
    Ok(Membership::Own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Membership> {
        let annotations = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        membership("c", &annotations)
    }

    #[test]
    fn a_container_joins_the_sandbox_that_its_annotations_name() {
        for (kind, sandbox) in KEYS {
            assert_eq!(
                of(&[(kind, "container"), (sandbox, "pod")]),
                Ok(Membership::Joins("pod".into()))
            );
            assert_eq!(
                of(&[(kind, "sandbox"), (sandbox, "pod")]),
                Ok(Membership::Own)
            );
            assert_eq!(
                of(&[(kind, "container"), (sandbox, "c")]),
                Ok(Membership::Own)
            );
            assert!(of(&[(kind, "container")]).is_err());
            assert!(of(&[(kind, "pod")]).is_err());
        }
        assert_eq!(of(&[("other", "x")]), Ok(Membership::Own));
    }
}
