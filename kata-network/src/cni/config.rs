//! Network configurations: `.conf` and `.conflist` (CNI specification, section 1).

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::version::{SUPPORTED, Version};
use crate::error::{Error, Result};

/// The version of a configuration that does not say it.
const UNSAID: &str = "0.4.0";

/// A network: plugins that are run one after the other.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NetworkConfig {
    pub(super) version: Version,
    pub(super) name: String,
    pub(super) disable_check: bool,
    pub(super) disable_gc: bool,
    pub(super) plugins: Vec<PluginConfig>,
    /// The whole of it, as it was written.
    pub(super) text: Value,
}

/// One plugin of a network.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PluginConfig {
    /// The name of its program.
    pub(super) kind: String,
    /// What it is told, but for what differs by call.
    pub(super) object: Map<String, Value>,
    /// What it can be told of at run time.
    pub(super) capabilities: Vec<String>,
}

impl PluginConfig {
    /// Whether it hands addresses out.
    pub(super) fn has_ipam(&self) -> bool {
        let ipam = self
            .object
            .get("ipam")
            .and_then(|ipam| ipam["type"].as_str());
        ipam.is_some_and(|kind| !kind.is_empty())
    }
}

/// Plugins that make one interface of Ethernet frames, of the name that they are
/// told.
const MAKES_ONE: [&str; 6] = ["bridge", "flannel", "ipvlan", "macvlan", "ptp", "vlan"];
/// Plugins that make none, and move none away.
const MAKES_NONE: [&str; 5] = ["bandwidth", "firewall", "portmap", "sbr", "tuning"];

fn wrong(reason: impl Into<String>) -> Error {
    Error::InvalidConfig {
        field: "CNI configuration",
        reason: reason.into(),
    }
}

impl NetworkConfig {
    /// Reads a configuration or a list of them.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let value = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        Self::of(value)
    }

    pub(super) fn of(value: Value) -> Result<Self> {
        let name = value["name"].as_str().unwrap_or_default().to_owned();
        if !is_name(&name) {
            return Err(wrong(format!("{name:?} is no name of a network")));
        }
        let version = version(&value)?;
        let plugins = match value.get("plugins") {
            Some(Value::Array(plugins)) => {
                plugins.iter().map(plugin).collect::<Result<Vec<_>>>()?
            }
            Some(_) => return Err(wrong(format!("the plugins of {name} are no list"))),
            None => vec![plugin(&value)?],
        };
        if plugins.is_empty() {
            return Err(wrong(format!("network {name} has no plugins")));
        }
        let flag = |key: &str| match &value[key] {
            Value::Bool(set) => *set,
            Value::String(set) => set == "true",
            _ => false,
        };
        Ok(Self {
            version,
            disable_check: flag("disableCheck"),
            disable_gc: flag("disableGC"),
            name,
            plugins,
            text: value,
        })
    }

    /// Whether its plugins are known to make one interface for each sandbox.
    pub(super) fn makes_one_interface(&self) -> bool {
        let mut plugins = self.plugins.iter().map(|plugin| plugin.kind.as_str());
        let first = plugins.next();
        first.is_some_and(|kind| MAKES_ONE.contains(&kind))
            && plugins.all(|kind| MAKES_NONE.contains(&kind))
    }

    /// Reads the configuration in a file.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(Error::host(format!("read {}", path.display())))?;
        Self::parse(&text).map_err(|error| match error {
            Error::InvalidConfig { field, reason } => Error::InvalidConfig {
                field,
                reason: format!("{}: {reason}", path.display()),
            },
            other => other,
        })
    }

    /// The configurations in a directory, in the order of their files' names.
    pub(super) fn files(directory: &Path) -> Result<Vec<PathBuf>> {
        let failed = || Error::host(format!("list {}", directory.display()));
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if matches!(extension, Some("conf" | "conflist" | "json")) {
                files.push(path);
            }
        }
        files.sort();
        if files.is_empty() {
            let reason = format!(
                "{} has no .conf and no .conflist in it",
                directory.display()
            );
            return Err(wrong(reason));
        }
        Ok(files)
    }
}

/// The version to speak: the newest that is known of those that are offered.
fn version(value: &Value) -> Result<Version> {
    let mut offered: Vec<&str> = value["cniVersions"]
        .as_array()
        .map(|versions| versions.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    offered.extend(value["cniVersion"].as_str());
    if offered.is_empty() {
        offered.push(UNSAID);
    }
    let parsed = offered.iter().filter_map(|text| text.parse().ok());
    let newest = parsed
        .filter(|version: &Version| version.is_supported())
        .max();
    newest.ok_or_else(|| {
        let known = SUPPORTED.map(|version| version.to_string()).join(", ");
        let offered = offered.join(", ");
        wrong(format!(
            "it is of CNI version {offered}, and known are {known}"
        ))
    })
}

fn plugin(value: &Value) -> Result<PluginConfig> {
    let object = value
        .as_object()
        .ok_or_else(|| wrong("a plugin is no object"))?;
    let kind = value["type"].as_str().unwrap_or_default().to_owned();
    if !is_name(&kind) {
        return Err(wrong(format!("{kind:?} is no type of a plugin")));
    }
    let capabilities = value["capabilities"].as_object();
    let capabilities = capabilities.map(|capabilities| {
        let declared = capabilities.iter();
        let declared = declared.filter(|(_, value)| value.as_bool() == Some(true));
        declared.map(|(name, _)| name.clone()).collect()
    });
    let mut object = object.clone();
    object.remove("capabilities");
    Ok(PluginConfig {
        kind,
        object,
        capabilities: capabilities.unwrap_or_default(),
    })
}

/// Names of networks and plugins, which become names of files.
fn is_name(name: &str) -> bool {
    let first = name.chars().next();
    first.is_some_and(|c| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_a_list_of_one() {
        let one = NetworkConfig::parse(r#"{"name":"n","type":"bridge","ipam":{"type":"x"}}"#);
        let one = one.unwrap();
        assert_eq!((one.name.as_str(), one.plugins.len()), ("n", 1));
        assert!(one.plugins[0].has_ipam());
        assert_eq!(one.version, Version::V0_4);
    }

    #[test]
    fn the_newest_version_that_is_known_is_spoken() {
        let text = r#"{"name":"n","cniVersion":"0.4.0","cniVersions":["9.0.0","1.0.0"],
            "plugins":[{"type":"a","capabilities":{"mac":true,"ips":false}}]}"#;
        let list = NetworkConfig::parse(text).unwrap();
        assert_eq!(list.version, Version::V1_0);
        assert_eq!(list.plugins[0].capabilities, ["mac"]);
        assert!(!list.plugins[0].object.contains_key("capabilities"));
    }

    #[test]
    fn what_is_no_configuration_is_told() {
        for (text, why) in [
            ("", "EOF"),
            ("[]", "no name"),
            (r#"{"name":"../x","type":"a"}"#, "no name"),
            (r#"{"name":"n","type":"/bin/sh"}"#, "no type"),
            (r#"{"name":"n"}"#, "no type"),
            (r#"{"name":"n","plugins":[]}"#, "no plugins"),
            (r#"{"name":"n","plugins":{}}"#, "no list"),
            (r#"{"name":"n","plugins":[7]}"#, "no object"),
            (r#"{"name":"n","type":"a","cniVersion":"0.2.0"}"#, "0.2.0"),
        ] {
            let error = NetworkConfig::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn an_empty_directory_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let error = NetworkConfig::files(directory.path()).unwrap_err();
        assert!(error.to_string().contains("no .conflist"), "{error}");
        for name in ["20-b.conf", "10-a.conflist", "readme"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let files = NetworkConfig::files(directory.path()).unwrap();
        assert_eq!(files.len(), 2);
        assert!(files[0].ends_with("10-a.conflist"));
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_file_holds_it_is_answered(text: String) {
            drop(NetworkConfig::parse(&text));
        }
    }
}
