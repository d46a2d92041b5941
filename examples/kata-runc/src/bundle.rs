//! A container's bundle, checked as far as it can be without a guest.

use std::path::{Path, PathBuf};

use kata_sandbox::{ContainerSpec, oci};

use crate::failure::{Failure, Result};

const CONFIG: &str = "config.json";

/// A bundle.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// Absolute.
    pub(crate) path: PathBuf,
    pub(crate) spec: ContainerSpec,
}

impl Bundle {
    /// Reads the bundle in a directory, by default the current one.
    pub(crate) fn load(directory: Option<&str>) -> Result<Self> {
        let named = Path::new(directory.unwrap_or("."));
        let path = named
            .canonicalize()
            .map_err(|error| Failure::io("chdir", named, &error))?;
        if !path.join(CONFIG).exists() {
            let reason = format!("JSON specification file {CONFIG} not found");
            return Err(Failure::new(reason));
        }
        let spec = ContainerSpec::from_bundle(&path)?;
        check(spec.oci().process().as_ref())?;
        Ok(Self { path, spec })
    }

    /// Whether the container's process is to have a terminal.
    pub(crate) fn terminal(&self) -> bool {
        let process = self.spec.oci().process().as_ref();
        process.and_then(oci::Process::terminal).unwrap_or(false)
    }

    /// The root file system, absolute.
    pub(crate) fn rootfs(&self) -> PathBuf {
        let root = self.spec.oci().root().as_ref();
        root.map_or_else(|| self.path.clone(), |root| self.path.join(root.path()))
    }

    /// The process that the container is to run, as its bundle has it now.
    pub(crate) fn process(path: &Path) -> Result<oci::Process> {
        let bundle = Self::load(path.to_str())?;
        let process = bundle.spec.oci().process().clone();
        process.ok_or_else(|| Failure::new("process property must not be empty"))
    }
}

/// The terminal's size, as a specification has it: rows, then columns.
pub(crate) fn console_size(process: Option<&oci::Process>) -> Option<(u16, u16)> {
    let size = process?.console_size()?;
    let side = |side: u64| u16::try_from(side).ok().filter(|side| *side > 0);
    Some((side(size.height())?, side(size.width())?))
}

/// What makes no process, in runc's words.
pub(crate) fn check(process: Option<&oci::Process>) -> Result<()> {
    let Some(process) = process else {
        return Err(Failure::new("process property must not be empty"));
    };
    if process.cwd().as_os_str().is_empty() {
        return Err(Failure::new("Cwd property must not be empty"));
    }
    if !process.cwd().is_absolute() {
        return Err(Failure::new("Cwd must be an absolute path"));
    }
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(Failure::new("args must not be empty"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(process: &str) -> String {
        let process = serde_json::from_str(process).unwrap();
        check(Some(&process)).unwrap_err().to_string()
    }

    #[test]
    fn what_makes_no_process_is_told_in_runcs_words() {
        assert_eq!(
            check(None).unwrap_err().to_string(),
            "process property must not be empty"
        );
        let user = "\"user\": {\"uid\": 0, \"gid\": 0}";
        assert_eq!(
            fault(&format!("{{{user}, \"cwd\": \"\", \"args\": [\"a\"]}}")),
            "Cwd property must not be empty"
        );
        assert_eq!(
            fault(&format!("{{{user}, \"cwd\": \"x\", \"args\": [\"a\"]}}")),
            "Cwd must be an absolute path"
        );
        assert_eq!(
            fault(&format!("{{{user}, \"cwd\": \"/\", \"args\": []}}")),
            "args must not be empty"
        );
    }

    #[test]
    fn a_directory_without_a_specification_is_no_bundle() {
        let directory = tempfile::tempdir().unwrap();
        let error = Bundle::load(directory.path().to_str()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "JSON specification file config.json not found"
        );
        let error = Bundle::load(Some("/nonexistent")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "chdir /nonexistent: no such file or directory"
        );
    }
}
