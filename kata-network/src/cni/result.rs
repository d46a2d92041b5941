//! What plugins answer (CNI specification, section 5).

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::version::Version;
use crate::address::IpNet;

/// What a network's plugins made of an interface, as the last of them said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PluginResult {
    pub(super) interfaces: Vec<Interface>,
    pub(super) addresses: Vec<Address>,
    routes: Vec<Value>,
    pub(super) dns: Dns,
}

/// An interface that a plugin made.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Interface {
    pub(super) name: String,
    /// The namespace that it is in; empty for the host's.
    pub(super) sandbox: String,
    /// All that was said of it.
    object: Map<String, Value>,
}

/// An address that a plugin gave.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Address {
    pub(super) net: IpNet,
    gateway: Option<String>,
    interface: Option<u64>,
}

/// What a plugin said of name servers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Dns {
    pub(super) servers: Vec<IpAddr>,
    pub(super) search: Vec<String>,
    pub(super) options: Vec<String>,
    object: Map<String, Value>,
}

impl PluginResult {
    /// Reads a result of any version.
    pub(super) fn parse(value: &Value) -> Result<Self, String> {
        let object = value.as_object().ok_or("it is no object")?;
        let mut result = Self::default();
        for interface in list(object, "interfaces")? {
            result.interfaces.push(Interface::parse(interface)?);
        }
        for address in list(object, "ips")? {
            result.addresses.push(Address::parse(address)?);
        }
        result.routes = list(object, "routes")?.to_vec();
        if let Some(dns) = object.get("dns").filter(|dns| !dns.is_null()) {
            result.dns = Dns::parse(dns)?;
        }
        // Before version 0.3 there was one of each.
        for key in ["ip4", "ip6"] {
            if let Some(old) = object.get(key) {
                let text = old["ip"].as_str().ok_or("an address has no text")?;
                result.addresses.push(Address {
                    net: text.parse().map_err(|error| format!("{error}"))?,
                    gateway: old["gateway"].as_str().map(str::to_owned),
                    interface: None,
                });
                let routes = old.as_object().ok_or("an address is no object")?;
                result.routes.extend_from_slice(list(routes, "routes")?);
            }
        }
        for address in &result.addresses {
            let interfaces = result.interfaces.len();
            let known = |index| usize::try_from(index).is_ok_and(|index| index < interfaces);
            if address.interface.is_some_and(|index| !known(index)) {
                return Err(format!(
                    "{} is on an interface that is not listed",
                    address.net
                ));
            }
        }
        Ok(result)
    }

    /// Writes it as that version does.
    pub(super) fn to_value(&self, version: Version) -> Value {
        let interfaces = self
            .interfaces
            .iter()
            .map(|interface| interface.to_value(version));
        let addresses = self
            .addresses
            .iter()
            .map(|address| address.to_value(version));
        let mut value = json!({
            "cniVersion": version.to_string(),
            "interfaces": interfaces.collect::<Vec<_>>(),
            "ips": addresses.collect::<Vec<_>>(),
            "routes": self.routes.iter().map(|route| route_of(route, version)).collect::<Vec<_>>(),
        });
        if !self.dns.object.is_empty() {
            value["dns"] = Value::Object(self.dns.object.clone());
        }
        value
    }
}

/// Reads a value as a result, and what is written of it again.
///
/// # Panics
/// When that says otherwise.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn read_again(value: &Value) {
    let Ok(result) = PluginResult::parse(value) else {
        return;
    };
    for version in [Version::V0_4, Version::V1_0, Version::V1_1] {
        let again = PluginResult::parse(&result.to_value(version));
        let again = again.map(|again| again.addresses);
        assert_eq!(again.as_ref(), Ok(&result.addresses), "{version}");
    }
}

fn list<'a>(object: &'a Map<String, Value>, key: &str) -> Result<&'a [Value], String> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(list)) => Ok(list),
        Some(_) => Err(format!("its {key} are no list")),
    }
}

/// What version 1.1 added to interfaces.
const NEW_OF_INTERFACES: [&str; 3] = ["mtu", "socketPath", "pciID"];
/// What version 1.1 added to routes.
const NEW_OF_ROUTES: [&str; 5] = ["mtu", "advmss", "priority", "table", "scope"];

impl Interface {
    fn parse(value: &Value) -> Result<Self, String> {
        let object = value.as_object().ok_or("an interface is no object")?;
        let name = value["name"].as_str().ok_or("an interface has no name")?;
        Ok(Self {
            name: name.to_owned(),
            sandbox: value["sandbox"].as_str().unwrap_or_default().to_owned(),
            object: object.clone(),
        })
    }

    fn to_value(&self, version: Version) -> Value {
        let mut object = self.object.clone();
        if version < Version::V1_1 {
            object.retain(|key, _| !NEW_OF_INTERFACES.contains(&key.as_str()));
        }
        Value::Object(object)
    }
}

fn route_of(route: &Value, version: Version) -> Value {
    let mut route = route.clone();
    if let (Some(object), true) = (route.as_object_mut(), version < Version::V1_1) {
        object.retain(|key, _| !NEW_OF_ROUTES.contains(&key.as_str()));
    }
    route
}

impl Address {
    fn parse(value: &Value) -> Result<Self, String> {
        let text = value["address"].as_str().ok_or("an address has no text")?;
        let net: IpNet = text.parse().map_err(|error| format!("{error}"))?;
        let interface = match &value["interface"] {
            Value::Null => None,
            index => Some(
                index
                    .as_u64()
                    .ok_or("an address's interface is no number")?,
            ),
        };
        Ok(Self {
            net,
            gateway: value["gateway"].as_str().map(str::to_owned),
            interface,
        })
    }

    fn to_value(&self, version: Version) -> Value {
        let mut value = json!({ "address": self.net.to_string() });
        if let Some(gateway) = &self.gateway {
            value["gateway"] = json!(gateway);
        }
        if let Some(interface) = self.interface {
            value["interface"] = json!(interface);
        }
        if version < Version::V1_0 {
            let family = if self.net.address().is_ipv4() {
                "4"
            } else {
                "6"
            };
            value["version"] = json!(family);
        }
        value
    }
}

impl Dns {
    fn parse(value: &Value) -> Result<Self, String> {
        let object = value.as_object().ok_or("its dns is no object")?;
        let texts = |key| -> Result<Vec<String>, String> {
            let texts = list(object, key)?.iter().filter_map(Value::as_str);
            Ok(texts.map(str::to_owned).collect())
        };
        let servers = texts("nameservers")?;
        let mut search = texts("search")?;
        if search.is_empty() {
            search.extend(value["domain"].as_str().map(str::to_owned));
        }
        Ok(Self {
            servers: servers
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            search,
            options: texts("options")?,
            object: object.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newest() -> Value {
        json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                { "name": "br0", "mac": "02:00:00:00:00:01" },
                { "name": "eth0", "sandbox": "/run/netns/x", "mtu": 1400 },
            ],
            "ips": [{ "address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 1 },
                    { "address": "fd00::2/64", "interface": 1 }],
            "routes": [{ "dst": "0.0.0.0/0", "priority": 7 }],
            "dns": { "nameservers": ["10.0.0.1"], "domain": "a.example", "options": ["edns0"] },
        })
    }

    #[test]
    fn a_result_is_the_same_when_it_is_written_again() {
        let result = PluginResult::parse(&newest()).unwrap();
        assert_eq!(result.to_value(Version::V1_1), newest());
        assert_eq!(result.dns.search, ["a.example"]);
        assert_eq!(result.interfaces[1].sandbox, "/run/netns/x");
    }

    #[test]
    fn an_older_version_says_families_and_lacks_what_came_later() {
        let result = PluginResult::parse(&newest()).unwrap();
        let older = result.to_value(Version::V1_0);
        assert_eq!(older["interfaces"][1]["mtu"], Value::Null);
        assert_eq!(older["routes"][0], json!({ "dst": "0.0.0.0/0" }));
        assert_eq!(older["ips"][0]["version"], Value::Null);
        let oldest = result.to_value(Version::V0_4);
        assert_eq!(oldest["ips"][0]["version"], "4");
        assert_eq!(oldest["ips"][1]["version"], "6");
        assert_eq!(
            PluginResult::parse(&oldest).unwrap().addresses,
            result.addresses
        );
    }

    #[test]
    fn a_result_from_before_lists_is_understood() {
        let old = json!({ "ip4": { "ip": "10.0.0.2/24", "gateway": "10.0.0.1",
                                   "routes": [{ "dst": "0.0.0.0/0" }] } });
        let result = PluginResult::parse(&old).unwrap().to_value(Version::V1_0);
        assert_eq!(result["ips"][0]["address"], "10.0.0.2/24");
        assert_eq!(result["routes"][0]["dst"], "0.0.0.0/0");
    }

    #[test]
    fn what_is_no_result_is_told() {
        for (value, why) in [
            (json!([]), "no object"),
            (json!({ "ips": 7 }), "no list"),
            (json!({ "ips": [{ "address": "10.0.0.2" }] }), "prefix"),
            (json!({ "ips": [{}] }), "no text"),
            (
                json!({ "ips": [{ "address": "10.0.0.2/8", "interface": 0 }] }),
                "not listed",
            ),
            (json!({ "interfaces": [{}] }), "no name"),
            (json!({ "dns": "here" }), "no object"),
        ] {
            let error = PluginResult::parse(&value).unwrap_err();
            assert!(error.contains(why), "{value}: {error}");
        }
    }

    /// Keys that results have, and some that belong elsewhere in them.
    const KEYS: &[&str] = &[
        "interfaces",
        "ips",
        "ip4",
        "ip6",
        "ip",
        "routes",
        "dns",
        "nameservers",
        "domain",
        "search",
        "options",
        "name",
        "sandbox",
        "address",
        "gateway",
        "interface",
        "dst",
        "gw",
        "cniVersion",
        "version",
        "mac",
        "mtu",
    ];

    /// JSON of any shape, with such keys.
    fn anything() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let text = prop_oneof![
            Just("10.0.0.1/24"),
            Just("fe80::1/64"),
            Just("10.0.0.1"),
            Just("0.3.1"),
            Just("")
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (0..4_u64).prop_map(Value::from),
            text.prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 60, 6, move |inner| {
            let key = prop::sample::select(KEYS).prop_map(str::to_owned);
            let members = prop::collection::btree_map(key, inner.clone(), 0..6);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
                members.prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest::proptest! {
        #[test]
        fn whatever_json_is_answered_is_survived(value in anything()) {
            if let Ok(result) = PluginResult::parse(&value) {
                for version in [Version::V0_4, Version::V1_1] {
                    let again = PluginResult::parse(&result.to_value(version));
                    proptest::prop_assert_eq!(again.unwrap().addresses, result.addresses.clone());
                }
            }
        }

        #[test]
        fn whatever_is_answered_is_survived(
            name in ".*", address in ".*", index in proptest::option::of(0..9_u64),
        ) {
            let value = json!({
                "interfaces": [{ "name": name }],
                "ips": [{ "address": address, "interface": index }, { "address": "::1/8" }],
                "dns": { "nameservers": [address] },
            });
            if let Ok(result) = PluginResult::parse(&value) {
                let again = PluginResult::parse(&result.to_value(Version::V0_4));
                proptest::prop_assert_eq!(again.unwrap().addresses, result.addresses);
            }
        }
    }
}
