//! Whose virtual machine a container runs in: its own, or its pod's.

use std::collections::BTreeMap;

use kata_sandbox::oci;

use crate::failure::{Failure, Result};
use crate::state::{ProxyProcess, Record};

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

/// The container whose pid namespace a specification names, by the path of its
/// proxy: `/proc/PID/ns/pid`. Engines name the pod's first container's where the
/// pod's containers see each other's processes, or that of one to be debugged.
pub(crate) fn pid_namespace<'a>(
    spec: &oci::Spec,
    sandbox: &str,
    all: &'a [Record],
) -> Option<&'a Record> {
    let namespaces = spec.linux().as_ref()?.namespaces().as_ref()?;
    let pid = oci::LinuxNamespaceType::Pid;
    let named = namespaces.iter().find(|named| named.typ() == pid)?;
    let path = named.path().as_ref()?.to_str()?;
    let proxy = path.strip_prefix("/proc/")?.strip_suffix("/ns/pid")?;
    let proxy: u32 = proxy.parse().ok()?;
    let stands = |record: &&Record| {
        let process = record.process.filter(|process| process.pid == proxy);
        record.sandbox == sandbox && process.is_some_and(ProxyProcess::is_alive)
    };
    all.iter().find(stands)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::record;

    #[test]
    fn a_pid_namespace_is_known_by_the_proxy_in_it() {
        let spec = |path: &str| -> oci::Spec {
            let json = format!(
                "{{\"ociVersion\": \"1.0.2\", \"linux\": {{\"namespaces\": \
                 [{{\"type\": \"pid\", \"path\": \"{path}\"}}]}}}}"
            );
            serde_json::from_str(&json).unwrap()
        };
        let all = [record()];
        let own = std::process::id();
        let found = pid_namespace(&spec(&format!("/proc/{own}/ns/pid")), "c1", &all);
        assert_eq!(found, Some(&all[0]));
        assert_eq!(pid_namespace(&spec("/proc/1/ns/pid"), "c1", &all), None);
        assert_eq!(pid_namespace(&spec("/run/ns/pid"), "c1", &all), None);
        let other = pid_namespace(&spec(&format!("/proc/{own}/ns/pid")), "other", &all);
        assert_eq!(other, None, "of another sandbox");
    }

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
