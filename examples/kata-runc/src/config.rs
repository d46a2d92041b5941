//! Which guest and which hypervisor: the one thing that runc has no option for.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::failure::{Failure, Result};

/// Read when `--config` names no other; it need not be there.
const FILE: &str = "/etc/kata-runc/config.toml";
/// Names the guest image, over the file.
const IMAGE: &str = "KATA_GUEST_IMAGE";

/// The configuration file. With nothing set it is valid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(crate) struct Config {
    /// A directory as `kata-image` makes it.
    pub(crate) guest_image: Option<PathBuf>,
    /// A hypervisor by name, in place of the best that works here.
    pub(crate) hypervisor: Option<String>,
    /// Processors of a sandbox that has no limits.
    pub(crate) vcpus: Option<u32>,
    /// Memory of a sandbox that has no limits, in MiB.
    pub(crate) memory_mib: Option<u64>,
    /// How long a machine may take to boot, in seconds.
    pub(crate) boot_timeout_s: Option<u64>,
    /// Words for the guest's kernel.
    #[serde(default)]
    pub(crate) kernel_parameters: Vec<String>,
    /// Where sandboxes have their state; each `--root` has its own below.
    pub(crate) state_dir: Option<PathBuf>,
}

impl Config {
    /// Reads the file, and what the environment says over it.
    pub(crate) fn load(file: Option<&Path>) -> Result<Self> {
        let mut config = match file {
            Some(path) => Self::read(path)?,
            None => match Self::read(Path::new(FILE)) {
                Ok(config) => config,
                Err(_) if !Path::new(FILE).exists() => Self::default(),
                Err(error) => return Err(error),
            },
        };
        if let Some(image) = std::env::var_os(IMAGE).filter(|image| !image.is_empty()) {
            config.guest_image = Some(image.into());
        }
        Ok(config)
    }

    fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).map_err(|error| Failure::io("open", path, &error))?;
        toml::from_str(&text).map_err(|error| {
            let message = error.to_string();
            Failure::new(format!("{}: {}", path.display(), message.trim_end()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::read(file.path())
    }

    #[test]
    fn an_empty_file_is_valid_and_each_field_is_read() {
        assert_eq!(read("").unwrap(), Config::default());
        let config = read("guest_image = '/i'\nvcpus = 2\nmemory_mib = 256").unwrap();
        assert_eq!(config.guest_image, Some("/i".into()));
        assert_eq!((config.vcpus, config.memory_mib), (Some(2), Some(256)));
    }

    #[test]
    fn an_unknown_field_is_refused_by_file_and_name() {
        let error = read("guest_imgae = '/i'").unwrap_err().to_string();
        assert!(error.contains("guest_imgae"), "{error}");
        assert!(error.starts_with('/'), "{error}");
    }
}
