//! A sandbox's attachment to one network: all its plugins, in order.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::call::{Caller, Subject, result_of};
use super::config::{NetworkConfig, PluginConfig};
use super::error::{PluginError, PluginFault};
use super::result::PluginResult;
use super::runtime_config::RuntimeConfig;
use super::version::Version;
use crate::error::{Error, Result};
use crate::lease::Phase;

/// What is needed to undo an attachment, in whichever process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Attachment {
    /// The network's configuration as it was when it was attached.
    pub(super) network: Value,
    pub(super) interface: String,
    pub(super) args: String,
    pub(super) runtime: RuntimeConfig,
    /// What the plugins answered, once they have.
    #[serde(default)]
    pub(super) result: Option<Value>,
}

/// An attachment with its configuration understood.
#[derive(Debug)]
pub(super) struct Attached<'a> {
    attachment: &'a Attachment,
    config: NetworkConfig,
    container: &'a str,
    netns: Option<&'a str>,
}

type PluginResultOr<T> = std::result::Result<T, Box<PluginError>>;

impl Attachment {
    pub(super) fn of<'a>(
        &'a self,
        container: &'a str,
        netns: Option<&'a str>,
    ) -> Result<Attached<'a>> {
        Ok(Attached {
            attachment: self,
            config: NetworkConfig::of(self.network.clone())?,
            container,
            netns,
        })
    }
}

impl Attached<'_> {
    fn subject(&self) -> Subject<'_> {
        Subject {
            network: &self.config,
            container: self.container,
            netns: self.netns,
            interface: &self.attachment.interface,
            args: &self.attachment.args,
        }
    }

    /// What a plugin is told beside its own configuration.
    fn extra(&self, plugin: &PluginConfig, previous: Option<&PluginResult>) -> Map<String, Value> {
        let mut extra = Map::new();
        let network = &self.config.name;
        let runtime = self
            .attachment
            .runtime
            .for_plugin(network, &plugin.capabilities);
        if !runtime.is_empty() {
            extra.insert("runtimeConfig".to_owned(), Value::Object(runtime));
        }
        if let Some(previous) = previous {
            let previous = previous.to_value(self.config.version);
            extra.insert("prevResult".to_owned(), previous);
        }
        extra
    }

    /// An error that the plugins' answers make, rather than a plugin.
    pub(super) fn fault(&self, fault: PluginFault) -> Error {
        let plugin = self.config.plugins.first();
        Error::Plugin(Box::new(PluginError {
            network: self.config.name.clone(),
            plugin: plugin.map(|plugin| plugin.kind.clone()).unwrap_or_default(),
            interface: self.attachment.interface.clone(),
            command: "ADD",
            fault,
            stderr: String::new(),
        }))
    }

    /// Adds the interface, and gives the last plugin's answer in the version of
    /// the configuration. Notes how long each plugin took.
    pub(super) fn add(
        &self,
        caller: &Caller<'_>,
        phases: &mut Vec<Phase>,
    ) -> Result<(PluginResult, Value)> {
        let mut previous = None;
        for plugin in &self.config.plugins {
            let extra = self.extra(plugin, previous.as_ref());
            let began = Instant::now();
            let answer = caller.call("ADD", self.subject(), plugin, extra)?;
            phases.push(Phase::ended(format!("cni {}", plugin.kind), began));
            let result = result_of(&answer).map_err(|fault| {
                Error::Plugin(Box::new(PluginError {
                    network: self.config.name.clone(),
                    plugin: plugin.kind.clone(),
                    interface: self.attachment.interface.clone(),
                    command: "ADD",
                    fault,
                    stderr: String::new(),
                }))
            })?;
            previous = Some(result);
        }
        let result = previous.unwrap_or_default();
        let hands_out = self.config.plugins.iter().any(PluginConfig::has_ipam);
        if hands_out && result.addresses.is_empty() {
            return Err(self.fault(PluginFault::NoAddress));
        }
        let written = result.to_value(self.config.version);
        Ok((result, written))
    }

    /// The result that was noted, if the plugins came that far.
    fn noted(&self) -> Option<PluginResult> {
        PluginResult::parse(self.attachment.result.as_ref()?).ok()
    }

    /// Asks each plugin whether all is as it was made.
    pub(super) fn check(&self, caller: &Caller<'_>) -> Result<()> {
        if self.config.version < Version::V0_4 || self.config.disable_check {
            return Ok(());
        }
        let noted = self.noted();
        for plugin in &self.config.plugins {
            let extra = self.extra(plugin, noted.as_ref());
            caller.call("CHECK", self.subject(), plugin, extra)?;
        }
        Ok(())
    }

    /// Removes the interface: in reverse order, past what fails.
    pub(super) fn delete(&self, caller: &Caller<'_>) -> Vec<Error> {
        let noted = self.noted();
        let previous = noted
            .as_ref()
            .filter(|_| self.config.version >= Version::V0_4);
        let plugins = self.config.plugins.iter().rev();
        let failed = plugins.filter_map(|plugin| {
            let extra = self.extra(plugin, previous);
            let deleted: PluginResultOr<_> = caller.call("DEL", self.subject(), plugin, extra);
            deleted.err().map(Error::Plugin)
        });
        failed.collect()
    }
}

/// Tells a network's plugins which attachments are still good.
pub(super) fn collect_garbage(
    caller: &Caller<'_>,
    config: &NetworkConfig,
    valid: &[(String, String)],
) -> Vec<Error> {
    if config.version < Version::V1_1 || config.disable_gc {
        return Vec::new();
    }
    let valid: Vec<Value> = valid
        .iter()
        .map(|(container, interface)| json!({ "containerID": container, "ifname": interface }))
        .collect();
    each(
        caller,
        config,
        "GC",
        &Map::from_iter([("cni.dev/valid-attachments".to_owned(), json!(valid))]),
    )
}

/// Asks a network's plugins whether they are ready.
pub(super) fn status(caller: &Caller<'_>, config: &NetworkConfig) -> Vec<Error> {
    if config.version < Version::V1_1 {
        return Vec::new();
    }
    each(caller, config, "STATUS", &Map::new())
}

fn each(
    caller: &Caller<'_>,
    config: &NetworkConfig,
    command: &'static str,
    extra: &Map<String, Value>,
) -> Vec<Error> {
    let subject = Subject {
        network: config,
        container: "",
        netns: None,
        interface: "",
        args: "",
    };
    let plugins = config.plugins.iter();
    let failed = plugins.filter_map(|plugin| {
        let called: PluginResultOr<_> = caller.call(command, subject, plugin, extra.clone());
        called.err().map(Error::Plugin)
    });
    failed.collect()
}
