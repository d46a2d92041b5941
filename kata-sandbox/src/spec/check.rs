//! Whether a specification makes a container at all.

use std::path::Path;

use kata_protocol::oci as wire;
use oci_spec::runtime as oci;

use super::ContainerSpec;
use crate::error::{Context, Error, ErrorKind, Result};

/// Checks what can be checked without the guest.
pub(crate) fn check(spec: &ContainerSpec, context: &Context) -> Result<()> {
    let oci = &spec.spec;
    let Some(process) = oci.process() else {
        return Err(context.invalid("process is missing from the specification"));
    };
    check_process(process, context)?;
    if oci.linux().is_none() {
        return Err(context.invalid("linux is missing from the specification"));
    }
    for (index, mount) in oci.mounts().iter().flatten().enumerate() {
        absolute(
            mount.destination(),
            &format!("mounts[{index}].destination"),
            context,
        )?;
    }
    check_hooks(spec, context)?;
    check_namespaces(spec, context)?;
    if let Some(field) = wire::unsupported(oci).first() {
        let reason = format!("{field} cannot be had in a guest");
        return Err(context
            .error(ErrorKind::Unsupported, reason)
            .with_remedy(REMOVE));
    }
    Ok(())
}

const REMOVE: &str = "leave it out, or take it out with ContainerSpec::edit_oci";

/// Checks a process: of a container, or to be executed in one.
pub(crate) fn check_process(process: &oci::Process, context: &Context) -> Result<()> {
    let program = process.args().iter().flatten().next();
    if program.is_none_or(String::is_empty) {
        return Err(context.invalid("process.args is empty: there is no program to run"));
    }
    absolute(process.cwd(), "process.cwd", context)?;
    let args = process.args().iter().flatten();
    let strings = args.chain(process.env().iter().flatten());
    if let Some(bad) = strings.into_iter().find(|text| text.contains('\0')) {
        return Err(context.invalid(format!("{bad:?} contains a NUL byte")));
    }
    Ok(())
}

fn absolute(path: &Path, field: &str, context: &Context) -> Result<()> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(context.invalid(format!(
        "{field} is {:?}, which is not absolute",
        path.display()
    )))
}

/// Hooks of the host run only if the embedder says so: this is a library in
/// somebody's program. Those of the guest run there.
fn check_hooks(spec: &ContainerSpec, context: &Context) -> Result<()> {
    let Some(hooks) = spec.spec.hooks().as_ref() else {
        return Ok(());
    };
    if spec.on_host.allow_hooks {
        return Ok(());
    }
    let host = [
        ("hooks.prestart", hooks.prestart()),
        ("hooks.createRuntime", hooks.create_runtime()),
        ("hooks.poststart", hooks.poststart()),
        ("hooks.poststop", hooks.poststop()),
    ];
    let used = host
        .iter()
        .find(|(_, hooks)| hooks.as_ref().is_some_and(|list| !list.is_empty()));
    used.map_or(Ok(()), |(field, _)| Err(refuse_hook(field, context)))
}

fn refuse_hook(field: &str, context: &Context) -> Error {
    let reason = format!("{field} runs programs on the host, which was not allowed");
    context
        .error(ErrorKind::Unsupported, reason)
        .with_remedy("allow it with ContainerSpec::allow_host_hooks, or leave it out")
}

/// A container without a namespace of its own would be in the host's, and one
/// with a path in somebody's there: neither can be in a guest. Network, IPC,
/// host name, mounts and cgroup are the sandbox's or the container's own.
fn check_namespaces(spec: &ContainerSpec, context: &Context) -> Result<()> {
    use oci::LinuxNamespaceType as Type;
    let linux = spec.spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
    let namespaces = namespaces.map_or(&[][..], Vec::as_slice);
    let shares = |kind| {
        let joins = &spec.sharing.joins;
        (kind == Type::Pid && spec.sharing.pid) || joins.iter().any(|(it, _)| it.kind() == kind)
    };
    let refuse = |reason: String, remedy: &str| {
        let error = context.error(ErrorKind::Unsupported, reason);
        Err(error.with_remedy(remedy))
    };
    for (kind, name) in [(Type::Pid, "pid"), (Type::Ipc, "ipc")] {
        let listed = namespaces.iter().any(|listed| listed.typ() == kind);
        if !listed && !shares(kind) {
            return refuse(
                format!("linux.namespaces has no {name} namespace: the host's is not in a guest"),
                "list one without a path",
            );
        }
    }
    for (index, namespace) in namespaces.iter().enumerate() {
        let kind = namespace.typ();
        let foreign = matches!(kind, Type::Pid | Type::User | Type::Mount | Type::Time);
        if let Some(path) = namespace.path()
            && foreign
            && !shares(kind)
        {
            let path = path.display();
            return refuse(
                format!("linux.namespaces[{index}].path is {path}, which is not in a guest"),
                "leave the path out; name the container whose namespace it is with \
                 ContainerSpec::join, or use ContainerSpec::share_pid",
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rootfs;

    fn fault(edit: impl FnOnce(&mut oci::Spec)) -> Error {
        let spec = ContainerSpec::new(Rootfs::Dir("/".into())).edit_oci(edit);
        check(&spec, &Context::new("create container", "s/c")).unwrap_err()
    }

    #[test]
    fn a_specification_that_makes_no_container_is_refused_by_field() {
        let error = fault(|spec| {
            spec.set_process(None);
        });
        assert!(error.to_string().contains("process is missing"), "{error}");
        let error = fault(|spec| {
            spec.process_mut().as_mut().unwrap().set_args(Some(vec![]));
        });
        assert!(
            error.to_string().contains("process.args is empty"),
            "{error}"
        );
        let error = fault(|spec| {
            spec.process_mut().as_mut().unwrap().set_cwd("tmp".into());
        });
        assert!(
            error.to_string().contains("process.cwd is \"tmp\""),
            "{error}"
        );
        let error = fault(|spec| {
            spec.process_mut()
                .as_mut()
                .unwrap()
                .set_env(Some(vec!["A=\0".into()]));
        });
        assert!(error.to_string().contains("NUL"), "{error}");
        let error = fault(|spec| {
            spec.set_linux(None);
        });
        assert!(error.to_string().contains("linux is missing"), "{error}");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    }

    #[test]
    fn a_mount_at_a_relative_path_is_refused_by_index() {
        let error = fault(|spec| {
            let mounts = spec.mounts_mut().as_mut().unwrap();
            mounts[1].set_destination("data".into());
        });
        assert!(
            error.to_string().contains("mounts[1].destination"),
            "{error}"
        );
    }

    #[test]
    fn hooks_of_the_host_are_refused_and_not_forgotten() {
        let hooks = r#"{"poststop": [{"path": "/bin/true"}]}"#;
        let error = fault(|spec| {
            spec.set_hooks(Some(serde_json::from_str(hooks).unwrap()));
        });
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("hooks.poststop"), "{error}");
    }

    #[test]
    fn hooks_pass_that_are_allowed_or_of_the_guest() {
        let context = Context::new("create container", "s/c");
        let with = |hooks: &str| {
            let hooks = serde_json::from_str(hooks).unwrap();
            ContainerSpec::new(Rootfs::Dir("/".into())).edit_oci(|spec| {
                spec.set_hooks(Some(hooks));
            })
        };
        let host = with(r#"{"createRuntime": [{"path": "/bin/true"}]}"#);
        assert!(check(&host, &context).is_err());
        check(&host.allow_host_hooks(), &context).unwrap();
        let guest = r#"{"createContainer": [{"path": "/h"}], "startContainer": [{"path": "/h"}]}"#;
        check(&with(guest), &context).unwrap();
    }

    #[test]
    fn namespaces_of_the_host_are_refused_by_field() {
        let context = Context::new("create container", "s/c");
        let with = |namespaces: &str| {
            let namespaces = serde_json::from_str(namespaces).unwrap();
            ContainerSpec::new(Rootfs::Dir("/".into())).edit_oci(|spec| {
                let linux = spec.linux_mut().as_mut().unwrap();
                linux.set_namespaces(Some(namespaces));
            })
        };
        let refused = |namespaces: &str| {
            let error = check(&with(namespaces), &context).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            error.to_string()
        };
        let text = refused(r#"[{"type": "ipc"}]"#);
        assert!(text.contains("no pid namespace"), "{text}");
        let text = refused(r#"[{"type": "pid"}]"#);
        assert!(text.contains("no ipc namespace"), "{text}");
        let path = r#"[{"type": "ipc"}, {"type": "pid", "path": "/proc/1/ns/pid"}]"#;
        let text = refused(path);
        assert!(text.contains("linux.namespaces[1].path"), "{text}");
        check(&with(path).share_pid(), &context).unwrap();
        check(&with(path).join(crate::Namespace::Pid, "a"), &context).unwrap();
        check(&with(r#"[{"type": "ipc"}]"#).share_pid(), &context).unwrap();
        let pod = r#"[{"type": "pid"}, {"type": "ipc", "path": "/proc/7/ns/ipc"},
            {"type": "network", "path": "/run/netns/a"}, {"type": "uts", "path": "/proc/7/ns/uts"}]"#;
        check(&with(pod), &context).unwrap();
    }
}
