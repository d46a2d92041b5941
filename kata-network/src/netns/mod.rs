//! A network namespace that somebody else has prepared.

mod adopt;
mod joined;
mod open;
mod options;
mod thread;
mod traffic;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::lease::Lease;
use crate::resolver;
use crate::rtnl::Rtnl;
use crate::setup::{Network, SetupRequest};
use crate::traffic::{Counters, RateLimits};
use crate::wiring::{self, WiringModel};

pub(crate) use joined::{Connection, Connections, Reserved, open_reserved};
pub(crate) use open::open;
pub(crate) use options::Options;
pub(crate) use thread::{inside, on_thread};

/// Connects what is in a namespace and not joined yet: for callers that are on
/// a thread that may wait. Gives what is joined then.
pub(crate) fn adopt_now(
    netns: OwnedFd,
    options: Options,
    request: &SetupRequest,
    mut connection: Connection,
) -> Result<(Lease, Connection)> {
    let request = request.clone();
    on_thread("adopt a network namespace", move || {
        thread::enter(Some(netns))?;
        let lease = adopt::adopt(&options, &request, &mut connection)?;
        Ok((lease, connection))
    })
}

/// What has gone through the interfaces of a sandbox in that namespace.
pub(crate) async fn counters(
    netns: OwnedFd,
    connections: &Arc<Connections>,
    sandbox: &str,
) -> Result<Vec<Counters>> {
    let (connections, sandbox) = (Arc::clone(connections), sandbox.to_owned());
    inside(Some(netns), "count packets", move || {
        let connection = connections.lock().get(&sandbox).cloned();
        traffic::counters(&connection.unwrap_or_default())
    })
    .await
}

/// Limits what goes through an interface of a sandbox in that namespace.
pub(crate) async fn limit(
    netns: OwnedFd,
    connections: &Arc<Connections>,
    sandbox: &str,
    interface: &str,
    limits: RateLimits,
) -> Result<()> {
    let (connections, sandbox) = (Arc::clone(connections), sandbox.to_owned());
    let interface = interface.to_owned();
    inside(Some(netns), "limit rates", move || {
        let connection = connections.lock().get(&sandbox).cloned();
        traffic::limit(&connection.unwrap_or_default(), &interface, &limits)
    })
    .await
}

/// Adopts a network namespace that a CRI, Docker or Podman has prepared: the
/// guest takes its place, with all its interfaces, addresses, routes, rules and
/// neighbours. What the guest sends leaves through the namespace's interfaces,
/// and what arrives there goes to the guest. Nothing of the namespace changes
/// but for taps and filters, which are taken back.
///
/// ```
/// use kata_network::{NetNs, WiringModel};
///
/// let network = NetNs::new("/run/netns/pod")
///     .resolv_conf("/etc/resolv.conf")
///     .wiring_of("eth1", WiringModel::Macvtap);
/// ```
#[derive(Clone, Debug)]
pub struct NetNs {
    path: PathBuf,
    options: Options,
    connections: Arc<Connections>,
}

impl NetNs {
    /// The namespace of that path, such as `/run/netns/pod` or `/proc/7/ns/net`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            options: Options::default(),
            connections: Arc::default(),
        }
    }

    /// Reads the guest's name servers there when it is set up; by default, the
    /// network has none.
    #[must_use]
    pub fn resolv_conf(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.resolv_conf = Some(path.into());
        self
    }

    /// How devices are joined to interfaces.
    #[must_use]
    pub fn wiring(mut self, model: WiringModel) -> Self {
        self.options.wiring = model;
        self
    }

    /// How the device of one interface is joined to it.
    #[must_use]
    pub fn wiring_of(mut self, interface: impl Into<String>, model: WiringModel) -> Self {
        self.options.wiring_of.insert(interface.into(), model);
        self
    }

    /// Has so many devices ready in the machine for interfaces that come to the
    /// namespace after the machine has started, and are found by
    /// [`Network::rescan`]: on machines that take no devices later, too.
    #[must_use]
    pub fn devices_ahead(mut self, count: usize) -> Self {
        self.options.ahead = count;
        self
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn from_description(description: &Value) -> Result<Self> {
        let wrong = |reason: String| Error::InvalidConfig {
            field: "description",
            reason,
        };
        let path = description["path"].as_str();
        let path = path.ok_or_else(|| wrong("it names no network namespace".to_owned()))?;
        let options = serde_json::from_value(description["options"].clone());
        Ok(Self {
            options: options.map_err(|error| wrong(error.to_string()))?,
            ..Self::new(path)
        })
    }

    /// Connects what is not yet connected.
    async fn connect(&self, request: &SetupRequest) -> Result<Lease> {
        let netns = open(&self.path)?;
        let (options, connections) = (self.options.clone(), Arc::clone(&self.connections));
        let request = request.clone();
        let work = move || {
            let mut connections = connections.lock();
            let connection = connections.entry(request.sandbox.clone()).or_default();
            adopt::adopt(&options, &request, connection)
        };
        let mut lease = inside(Some(netns), "adopt a network namespace", work).await?;
        lease.netns = Some(self.path.clone());
        Ok(lease)
    }
}

#[async_trait]
impl Network for NetNs {
    fn name(&self) -> &str {
        "netns"
    }

    fn description(&self) -> Option<Value> {
        // A path that is no text cannot be written down.
        let path = self.path.to_str()?;
        Some(json!({ "kind": "netns", "path": path, "options": self.options }))
    }

    async fn reserve(&self, request: &SetupRequest) -> Result<Vec<Endpoint>> {
        let reserved = Reserved::of(&request.sandbox, self.options.ahead);
        if reserved.is_empty() {
            return Ok(Vec::new());
        }
        let netns = open(&self.path)?;
        let connections = Arc::clone(&self.connections);
        let request = request.clone();
        let work = move || {
            let mut connections = connections.lock();
            let endpoints = open_reserved(&reserved, request.queues)?;
            let connection = connections.entry(request.sandbox).or_default();
            connection.reserved = reserved.into();
            Ok(endpoints)
        };
        inside(Some(netns), "reserve devices", work).await
    }

    async fn counters(&self, sandbox: &str) -> Result<Vec<Counters>> {
        counters(open(&self.path)?, &self.connections, sandbox).await
    }

    async fn limit(&self, sandbox: &str, interface: &str, limits: &RateLimits) -> Result<()> {
        let netns = open(&self.path)?;
        limit(netns, &self.connections, sandbox, interface, *limits).await
    }

    async fn setup(&self, request: &SetupRequest) -> Result<Lease> {
        // What another process undid is joined no more; what is reserved is kept.
        if let Some(connection) = self.connections.lock().get_mut(&request.sandbox) {
            connection.joined.clear();
        }
        let mut lease = self.connect(request).await?;
        if let Some(path) = self.options.resolv_conf.clone() {
            let what = format!("read {}", path.display());
            let read = move || std::fs::read_to_string(&path).map_err(Error::host(what));
            resolver::read(&inside(None, "read name servers", read).await?, &mut lease);
        }
        Ok(lease)
    }

    async fn rescan(&self, request: &SetupRequest) -> Result<Lease> {
        self.connect(request).await
    }

    async fn teardown(&self, sandbox: &str) -> Result<()> {
        let netns = match open(&self.path) {
            // With the namespace went all that was made in it.
            Err(Error::NotANamespace { .. }) => {
                self.connections.lock().remove(sandbox);
                return Ok(());
            }
            netns => netns?,
        };
        let (connections, sandbox) = (Arc::clone(&self.connections), sandbox.to_owned());
        let work = move || {
            let mut connections = connections.lock();
            let mut rtnl = Rtnl::open().map_err(Error::host("talk to the kernel's routing"))?;
            wiring::undo(&mut rtnl)?;
            connections.remove(&sandbox);
            Ok(())
        };
        inside(Some(netns), "leave a network namespace", work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_namespace_that_is_gone_is_told_and_needs_no_teardown() {
        let network = NetNs::new("/run/netns/no-such");
        let error = network.setup(&SetupRequest::new("s")).await.unwrap_err();
        assert!(matches!(error, Error::NotANamespace { .. }), "{error}");
        network.teardown("s").await.unwrap();
    }

    #[test]
    fn it_survives_its_description() {
        let network = NetNs::new("/run/netns/x")
            .resolv_conf("/etc/resolv.conf")
            .wiring(WiringModel::TcFilter)
            .wiring_of("eth1", WiringModel::Macvtap);
        let description = network.description().unwrap();
        let again = NetNs::from_description(&description).unwrap();
        assert_eq!(again.path, network.path);
        assert_eq!(again.options, network.options);
        assert!(NetNs::from_description(&json!({ "kind": "netns" })).is_err());
    }
}
