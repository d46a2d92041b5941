//! Networks that CNI plugins make (CNI specification 0.4.0 to 1.1.0).
//!
//! The plugins are run by this crate: no daemon, no cache but its own. Each
//! sandbox has a network namespace that its plugins fill and that is then
//! adopted as any other is.
//!
//! ```text
//!   record ─▶ namespace ─▶ ADD bridge ─▶ ADD portmap ─▶ … ─▶ adopt ─▶ lease
//!             (teardown)   DEL bridge ◀─ DEL portmap ◀─ …
//! ```

mod attachment;
mod call;
mod config;
mod error;
mod namespace;
mod record;
mod result;
mod run;
mod runtime_config;
mod settings;
mod version;
mod work;

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustix::event::{EventfdFlags, eventfd};
use serde_json::{Value, json};

use crate::address::{IpNet, MacAddress};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::lease::Lease;
use crate::netns::{self, Connections, inside};
use crate::setup::{Network, SetupRequest};
use crate::traffic::{Counters, RateLimits};
use crate::wiring::WiringModel;

pub use error::{PluginError, PluginFault};
#[cfg(any(test, feature = "testing"))]
pub(crate) use result::read_again;
pub use runtime_config::{Bandwidth, PortMapping};

use config::NetworkConfig;
use settings::Settings;
use work::Work;

/// Connects sandboxes to networks that CNI plugins make.
///
/// ```no_run
/// use kata_network::{Cni, PortMapping};
///
/// # fn main() -> kata_network::Result<()> {
/// let network = Cni::from_conf_dir("/etc/cni/net.d")?
///     .port_mapping(PortMapping::tcp(8080, 80));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Cni {
    settings: Settings,
    turns: Arc<work::Turns>,
    connections: Arc<Connections>,
}

impl Cni {
    /// The network whose file is first in a directory, as container runtimes
    /// have it.
    ///
    /// # Errors
    /// When there is none, or it makes no sense.
    pub fn from_conf_dir(directory: impl AsRef<Path>) -> Result<Self> {
        let files = NetworkConfig::files(directory.as_ref())?;
        Self::from_file(&files[0])
    }

    /// The network of a `.conf` or `.conflist`.
    ///
    /// # Errors
    /// When it cannot be read, or makes no sense.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::of(NetworkConfig::read(path.as_ref())?))
    }

    /// The network that a text describes, as it would be in a file.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn from_json(text: &str) -> Result<Self> {
        Ok(Self::of(NetworkConfig::parse(text)?))
    }

    fn of(config: NetworkConfig) -> Self {
        Self {
            settings: Settings::of(config.text),
            turns: Arc::default(),
            connections: Arc::default(),
        }
    }

    /// A further network for each sandbox, whose interface comes after those of
    /// the others: `eth1`, `eth2` and so on.
    ///
    /// # Errors
    /// When its description makes no sense.
    pub fn and_json(mut self, text: &str) -> Result<Self> {
        self.settings
            .networks
            .push(NetworkConfig::parse(text)?.text);
        Ok(self)
    }

    /// A further network, of a file.
    ///
    /// # Errors
    /// When it cannot be read, or makes no sense.
    pub fn and_file(mut self, path: impl AsRef<Path>) -> Result<Self> {
        let config = NetworkConfig::read(path.as_ref())?;
        self.settings.networks.push(config.text);
        Ok(self)
    }

    /// Looks for plugins in this directory first. By default they are in
    /// `/opt/cni/bin`, `/usr/lib/cni` and `/usr/libexec/cni`.
    #[must_use]
    pub fn plugin_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        let directories = &mut self.settings.plugin_dirs;
        let chosen = self.settings.chosen_plugin_dirs;
        directories.insert(chosen, directory.into());
        self.settings.chosen_plugin_dirs += 1;
        self
    }

    /// Where attachments are noted, so that they can be undone after a crash or
    /// a restart; by default `/var/lib/kata-network`.
    #[must_use]
    pub fn state_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.settings.state_dir = directory.into();
        self
    }

    /// Where sandboxes' network namespaces are; by default `/run/netns`, where
    /// plugins that are daemons expect them.
    #[must_use]
    pub fn netns_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.settings.netns_dir = directory.into();
        self
    }

    /// How long each plugin may take; by default a minute.
    #[must_use]
    pub fn plugin_timeout(mut self, limit: Duration) -> Self {
        self.settings.limit = limit;
        self
    }

    /// A pair for `CNI_ARGS`, such as `K8S_POD_NAME`.
    #[must_use]
    pub fn argument(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.arguments.push((key.into(), value.into()));
        self
    }

    /// Publishes a port of the sandbox (capability `portMappings`). The first
    /// network's plugins are told.
    #[must_use]
    pub fn port_mapping(mut self, mapping: PortMapping) -> Self {
        self.settings.runtime.port_mappings.push(mapping);
        self
    }

    /// Limits what goes through (capability `bandwidth`).
    #[must_use]
    pub fn bandwidth(mut self, bandwidth: Bandwidth) -> Self {
        self.settings.runtime.bandwidth = Some(bandwidth);
        self
    }

    /// Asks for an address (capability `ips`).
    #[must_use]
    pub fn ip(mut self, address: IpNet) -> Self {
        self.settings.runtime.ips.push(address);
        self
    }

    /// Asks for a hardware address (capability `mac`).
    #[must_use]
    pub fn mac(mut self, address: MacAddress) -> Self {
        self.settings.runtime.mac = Some(address);
        self
    }

    /// A name server for the sandbox (capability `dns`).
    #[must_use]
    pub fn name_server(mut self, address: IpAddr) -> Self {
        self.settings.runtime.dns_servers.push(address);
        self
    }

    /// A domain in which short names are looked for (capability `dns`).
    #[must_use]
    pub fn search_domain(mut self, domain: impl Into<String>) -> Self {
        self.settings.runtime.dns_searches.push(domain.into());
        self
    }

    /// A name by which the sandbox is known in a network (capability `aliases`).
    #[must_use]
    pub fn alias(mut self, network: impl Into<String>, name: impl Into<String>) -> Self {
        let aliases = &mut self.settings.runtime.aliases;
        aliases.entry(network.into()).or_default().push(name.into());
        self
    }

    /// Whatever else plugins declare, by capability.
    #[must_use]
    pub fn capability(mut self, name: impl Into<String>, value: Value) -> Self {
        self.settings.runtime.other.insert(name.into(), value);
        self
    }

    /// How devices are joined to interfaces.
    #[must_use]
    pub fn wiring(mut self, model: WiringModel) -> Self {
        self.settings.wiring = model;
        self
    }

    /// Whether each network's device is made before its plugins run, so that
    /// the machine boots meanwhile. By default so with plugins that are known to
    /// make one interface each (`bridge`, `ptp`, `macvlan`, `ipvlan`, `vlan`,
    /// `flannel`, with `portmap`, `bandwidth`, `firewall`, `tuning`, `sbr`).
    #[must_use]
    pub fn devices_ahead(mut self, ahead: bool) -> Self {
        self.settings.ahead = Some(ahead);
        self
    }

    /// Asks all plugins whether a sandbox's network is as they made it
    /// (`CHECK`).
    ///
    /// # Errors
    /// When one says that it is not.
    pub async fn check(&self, sandbox: &str) -> Result<()> {
        let sandbox = sandbox.to_owned();
        self.work("check a network", Dropped::GivesUp, move |work| {
            work.check(&sandbox)
        })
        .await
    }

    /// Asks all plugins whether they could connect a sandbox (`STATUS`, of
    /// version 1.1.0). Those of older networks are not asked.
    ///
    /// # Errors
    /// When one says that it could not.
    pub async fn status(&self) -> Result<()> {
        self.work("ask plugins", Dropped::GivesUp, |work| work.status())
            .await
    }

    /// The versions of the specification that each plugin of these networks
    /// speaks (`VERSION`).
    ///
    /// # Errors
    /// When a plugin is missing, or does not say.
    pub async fn versions(&self) -> Result<Vec<(String, Vec<String>)>> {
        self.work("ask plugins", Dropped::GivesUp, |work| work.versions())
            .await
    }

    /// Takes back what sandboxes have that are not among `alive`: those that
    /// are noted by `DEL`, and what plugins alone know of by `GC` (version
    /// 1.1.0).
    ///
    /// # Errors
    /// What failed; the rest is done all the same.
    pub async fn collect_garbage(&self, alive: &[&str]) -> Result<()> {
        let alive: Vec<String> = alive.iter().map(|&sandbox| sandbox.to_owned()).collect();
        self.work("collect garbage", Dropped::GoesOn, move |work| {
            work.collect_garbage(&alive)
        })
        .await
    }

    pub(crate) fn from_description(description: &Value) -> Result<Self> {
        let settings = serde_json::from_value(description["settings"].clone());
        let settings: Settings = settings.map_err(|error| Error::InvalidConfig {
            field: "description",
            reason: error.to_string(),
        })?;
        Ok(Self {
            settings,
            turns: Arc::default(),
            connections: Arc::default(),
        })
    }

    /// Does some work on a thread of its own, and tells it when nobody waits
    /// for it any more; tear-downs ([`Dropped::GoesOn`]) need not know.
    async fn work<T: Send + 'static>(
        &self,
        what: &'static str,
        dropped: Dropped,
        work: impl FnOnce(&Work) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let given_up = Arc::new(event().map_err(Error::host(what))?);
        let notice = (dropped == Dropped::GivesUp).then(|| Arc::clone(&given_up));
        let mut waiting = Waiting(notice);
        let place = Work {
            settings: self.settings.clone(),
            turns: Arc::clone(&self.turns),
            connections: Arc::clone(&self.connections),
            given_up,
        };
        let done = inside(None, what, move || work(&place)).await;
        waiting.0 = None;
        done
    }
}

/// What becomes of work that nobody waits for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dropped {
    /// It ends as soon as it can.
    GivesUp,
    /// It goes on to its end.
    GoesOn,
}

fn event() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Tells the work that nobody waits for it, when it is dropped.
struct Waiting(Option<Arc<OwnedFd>>);

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(given_up) = self.0.take() {
            // It has room for a number: it was zero.
            let _ = rustix::io::write(&*given_up, &1_u64.to_ne_bytes());
        }
    }
}

#[async_trait]
impl Network for Cni {
    fn name(&self) -> &str {
        "cni"
    }

    fn description(&self) -> Option<Value> {
        Some(json!({ "kind": "cni", "settings": self.settings }))
    }

    async fn reserve(&self, request: &SetupRequest) -> Result<Vec<Endpoint>> {
        let request = request.clone();
        self.work("reserve devices", Dropped::GivesUp, move |work| {
            work.reserve(&request)
        })
        .await
    }

    async fn counters(&self, sandbox: &str) -> Result<Vec<Counters>> {
        let (netns, container) = Work::place_of(&self.settings, sandbox)?;
        netns::counters(netns, &self.connections, &container).await
    }

    async fn limit(&self, sandbox: &str, interface: &str, limits: &RateLimits) -> Result<()> {
        let (netns, container) = Work::place_of(&self.settings, sandbox)?;
        netns::limit(netns, &self.connections, &container, interface, *limits).await
    }

    async fn rescan(&self, request: &SetupRequest) -> Result<Lease> {
        let request = request.clone();
        self.work("look at a network again", Dropped::GivesUp, move |work| {
            work.rescan(&request)
        })
        .await
    }

    async fn setup(&self, request: &SetupRequest) -> Result<Lease> {
        let request = request.clone();
        self.work("set up a CNI network", Dropped::GivesUp, move |work| {
            work.set_up(&request)
        })
        .await
    }

    async fn teardown(&self, sandbox: &str) -> Result<()> {
        let sandbox = sandbox.to_owned();
        self.work("tear down a CNI network", Dropped::GoesOn, move |work| {
            work.tear_down(&sandbox)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_survives_its_description() {
        let network = Cni::from_json(r#"{"name":"pods","type":"bridge"}"#).unwrap();
        let network = network
            .and_json(r#"{"name":"more","plugins":[{"type":"ptp"}]}"#)
            .unwrap()
            .plugin_dir("/a")
            .plugin_dir("/b")
            .argument("K", "v")
            .port_mapping(PortMapping::udp(53, 53))
            .alias("pods", "web")
            .plugin_timeout(Duration::from_secs(3));
        assert_eq!(
            network.settings.plugin_dirs[..2],
            ["/a", "/b"].map(PathBuf::from)
        );
        let description = network.description().unwrap();
        let again = Cni::from_description(&description).unwrap();
        assert_eq!(again.settings, network.settings);
        assert!(Cni::from_description(&json!({})).is_err());
    }
}
