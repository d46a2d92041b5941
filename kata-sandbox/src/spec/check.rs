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
    check_hooks(oci, context)?;
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

/// Hooks of the host have no place here: this is a library in somebody's
/// program. Those that run in the container's own namespaces go to the guest.
fn check_hooks(oci: &oci::Spec, context: &Context) -> Result<()> {
    let Some(hooks) = oci.hooks() else {
        return Ok(());
    };
    let host = [
        ("hooks.prestart", hooks.prestart()),
        ("hooks.createRuntime", hooks.create_runtime()),
        ("hooks.createContainer", hooks.create_container()),
        ("hooks.poststart", hooks.poststart()),
        ("hooks.poststop", hooks.poststop()),
    ];
    let used = host
        .iter()
        .find(|(_, hooks)| hooks.as_ref().is_some_and(|list| !list.is_empty()));
    used.map_or(Ok(()), |(field, _)| Err(refuse_hook(field, context)))
}

fn refuse_hook(field: &str, context: &Context) -> Error {
    let reason = format!("{field} runs programs on the host, which this library does not");
    context
        .error(ErrorKind::Unsupported, reason)
        .with_remedy(REMOVE)
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
}
