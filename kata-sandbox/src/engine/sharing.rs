//! Whose namespaces a container is put into.

use oci_spec::runtime as oci;

use super::Engine;
use crate::error::{Context, ErrorKind, Result};
use crate::spec::{ContainerSpec, Namespace};

/// Namespaces of the guest, by the paths of processes in them.
#[derive(Debug)]
pub(super) struct Resolved {
    /// Whether it is in the sandbox's own pid namespace.
    pub(super) pid: bool,
    paths: Vec<(Namespace, String)>,
}

/// Finds out which namespaces those are, while the containers run.
pub(super) fn resolve(
    engine: &Engine,
    spec: &mut ContainerSpec,
    context: &Context,
) -> Result<Resolved> {
    let sharing = std::mem::take(&mut spec.sharing);
    if sharing.pid && !engine.shared_process_ids {
        let reason = "the sandbox's containers do not share a pid namespace";
        let error = context.error(ErrorKind::InvalidState, reason);
        return Err(error.with_remedy("start it with SandboxBuilder::share_process_ids"));
    }
    let joins_pid = |(namespace, _): &(Namespace, String)| *namespace == Namespace::Pid;
    let joined = sharing.joins.iter().any(joins_pid);
    let path = |(namespace, container): (Namespace, String)| {
        let record = engine.containers.get(&container);
        let record = record.filter(|record| record.is_live());
        let pid = record.and_then(|record| record.init().pid());
        let Some(pid) = pid else {
            let kind = namespace.name();
            let reason = format!("it is to join the {kind} namespace of container {container:?}");
            let error = context.error(ErrorKind::InvalidState, reason);
            return Err(error.with_remedy("join one that runs in the same sandbox"));
        };
        Ok((namespace, format!("/proc/{pid}/ns/{}", namespace.name())))
    };
    let paths = sharing.joins.into_iter().map(path).collect::<Result<_>>()?;
    Ok(Resolved {
        pid: (sharing.pid || engine.shared_process_ids) && !joined,
        paths,
    })
}

impl Resolved {
    /// Puts the paths into a specification for the guest.
    pub(super) fn apply(&self, spec: &mut oci::Spec) {
        let linux = spec.linux_mut().get_or_insert_default();
        let namespaces = linux.namespaces_mut().get_or_insert_default();
        for (namespace, path) in &self.paths {
            namespaces.retain(|listed| listed.typ() != namespace.kind());
            let mut joined = oci::LinuxNamespace::default();
            joined.set_typ(namespace.kind()).set_path(Some(path.into()));
            namespaces.push(joined);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joined_namespace_takes_the_place_of_the_containers_own() {
        let mut spec = ContainerSpec::new(crate::Rootfs::Dir("/".into())).spec;
        let resolved = Resolved {
            pid: false,
            paths: vec![(Namespace::Pid, "/proc/7/ns/pid".into())],
        };
        resolved.apply(&mut spec);
        let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
        let pid: Vec<_> = namespaces
            .iter()
            .filter(|namespace| namespace.typ() == oci::LinuxNamespaceType::Pid)
            .collect();
        assert_eq!(pid.len(), 1);
        assert_eq!(pid[0].path(), &Some("/proc/7/ns/pid".into()));
    }
}
