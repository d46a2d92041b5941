//! Paths of a container that another process is to make.

use std::path::Path;

use super::{ContainerSpec, Rootfs};
use crate::error::{Context, Result};
use crate::stdio::StdioMode;

/// Checks that every path means the same in a process with another directory.
pub(crate) fn check_paths(spec: &ContainerSpec, context: &Context) -> Result<()> {
    if let Some(bundle) = &spec.bundle {
        absolute("the bundle", bundle, context)?;
    }
    match &spec.rootfs {
        Rootfs::Dir(path) | Rootfs::Block { path, .. } => {
            absolute("the root file system", path, context)?;
        }
        Rootfs::Overlay { lower, upper } => {
            for path in lower.iter().chain(upper) {
                absolute("a directory of the root file system", path, context)?;
            }
        }
    }
    check_log(&spec.stdio, context)
}

/// Checks the same of a log.
pub(crate) fn check_log(stdio: &StdioMode, context: &Context) -> Result<()> {
    match stdio {
        StdioMode::Log(path) => absolute("the log", path, context),
        _ => Ok(()),
    }
}

fn absolute(what: &str, path: &Path, context: &Context) -> Result<()> {
    if path.is_absolute() {
        return Ok(());
    }
    let reason = format!("{what} is {}, which is not absolute", path.display());
    let error = context.invalid(reason);
    Err(error.with_remedy("a supervisor does not share this program's current directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_is_refused_and_named() {
        let context = Context::new("create container", "s/c");
        let spec = |path: &str| ContainerSpec::new(Rootfs::Dir(path.into()));
        check_paths(&spec("/root"), &context).unwrap();
        let relative = spec("/root").stdio(StdioMode::Log("log".into()));
        let bad = [
            (spec("root"), "the root file system is root"),
            (relative, "the log is log"),
        ];
        for (spec, words) in bad {
            let error = check_paths(&spec, &context).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
