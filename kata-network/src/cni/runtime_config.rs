//! What plugins are told of one sandbox, where they can be
//! (CNI's `CONVENTIONS.md`, "Dynamic plugin-specific fields").

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::address::{IpNet, MacAddress};

/// A port of the host that leads to one of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PortMapping {
    /// The host's port.
    pub host_port: u16,
    /// The sandbox's.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The host's address; `None` for all of them.
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none", default)]
    pub host_address: Option<IpAddr>,
}

impl PortMapping {
    /// A TCP port of all the host's addresses.
    #[must_use]
    pub fn tcp(host_port: u16, container_port: u16) -> Self {
        Self {
            host_port,
            container_port,
            protocol: "tcp".to_owned(),
            host_address: None,
        }
    }

    /// A UDP port of all the host's addresses.
    #[must_use]
    pub fn udp(host_port: u16, container_port: u16) -> Self {
        Self {
            protocol: "udp".to_owned(),
            ..Self::tcp(host_port, container_port)
        }
    }

    /// Of one of the host's addresses alone.
    #[must_use]
    pub fn on(mut self, address: IpAddr) -> Self {
        self.host_address = Some(address);
        self
    }
}

/// How much may go through an interface; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bandwidth {
    /// To the sandbox, in bits per second.
    pub ingress_rate: u64,
    /// To the sandbox at once, in bits.
    pub ingress_burst: u64,
    /// From the sandbox, in bits per second.
    pub egress_rate: u64,
    /// From the sandbox at once, in bits.
    pub egress_burst: u64,
}

/// What plugins are told of one attachment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct RuntimeConfig {
    pub(super) port_mappings: Vec<PortMapping>,
    pub(super) bandwidth: Option<Bandwidth>,
    pub(super) ips: Vec<IpNet>,
    pub(super) mac: Option<MacAddress>,
    pub(super) dns_servers: Vec<IpAddr>,
    pub(super) dns_searches: Vec<String>,
    pub(super) dns_options: Vec<String>,
    /// By network.
    pub(super) aliases: BTreeMap<String, Vec<String>>,
    /// Whatever else some plugin declares, by capability.
    pub(super) other: BTreeMap<String, Value>,
}

impl RuntimeConfig {
    /// What a plugin of those capabilities is told.
    pub(super) fn for_plugin(&self, network: &str, capabilities: &[String]) -> Map<String, Value> {
        let told = capabilities.iter().filter_map(|capability| {
            let value = self.value(network, capability)?;
            Some((capability.clone(), value))
        });
        told.collect()
    }

    fn value(&self, network: &str, capability: &str) -> Option<Value> {
        let some = |there: bool, value: Value| there.then_some(value);
        match capability {
            "portMappings" => some(!self.port_mappings.is_empty(), json!(self.port_mappings)),
            "bandwidth" => self.bandwidth.map(|bandwidth| json!(bandwidth)),
            "ips" => some(!self.ips.is_empty(), json!(self.ips)),
            "mac" => self.mac.map(|mac| json!(mac)),
            "dns" => {
                let parts = [&self.dns_searches, &self.dns_options];
                let there = !self.dns_servers.is_empty() || parts.iter().any(|it| !it.is_empty());
                let value = json!({
                    "servers": self.dns_servers,
                    "searches": self.dns_searches,
                    "options": self.dns_options,
                });
                some(there, value)
            }
            "aliases" => self.aliases.get(network).map(|aliases| json!(aliases)),
            other => self.other.get(other).cloned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_told_what_it_declares_and_no_more() {
        let config = RuntimeConfig {
            port_mappings: vec![PortMapping::tcp(8080, 80).on("127.0.0.1".parse().unwrap())],
            mac: Some(MacAddress::new([2, 0, 0, 0, 0, 1])),
            aliases: [("pods".to_owned(), vec!["web".to_owned()])].into(),
            dns_servers: vec!["10.0.0.1".parse().unwrap()],
            ..RuntimeConfig::default()
        };
        let told = |network: &str, capabilities: &[&str]| {
            let capabilities: Vec<String> = capabilities.iter().map(|&it| it.to_owned()).collect();
            Value::Object(config.for_plugin(network, &capabilities))
        };
        assert_eq!(told("pods", &["bandwidth", "ips"]), json!({}));
        assert_eq!(
            told("pods", &["portMappings", "mac"]),
            json!({
                "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp",
                                   "hostIP": "127.0.0.1" }],
                "mac": "02:00:00:00:00:01",
            })
        );
        assert_eq!(told("pods", &["aliases"]), json!({ "aliases": ["web"] }));
        assert_eq!(told("other", &["aliases"]), json!({}));
        assert_eq!(told("x", &["dns"])["dns"]["servers"][0], "10.0.0.1");
    }
}
