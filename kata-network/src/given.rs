//! Devices that the caller names, with what the guest configures on them.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::address::{IpNet, MacAddress};
use crate::endpoint::{Attachment, Endpoint};
use crate::error::{Error, Result};
use crate::guest::{GuestInterface, Route};
use crate::lease::Lease;
use crate::netns::inside;
use crate::rtnl::{Link, Rtnl, tap_up};
use crate::setup::{Network, SetupRequest};
use crate::tap;
use crate::traffic::{Counters, RateLimits, limit_leaving};
use crate::wiring::WiringModel;

/// What the guest configures on a device that the caller names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GuestConfig {
    /// The interface.
    pub interface: GuestInterface,
    /// The guest's routes.
    pub routes: Vec<Route>,
    /// Its name servers.
    pub name_servers: Vec<IpAddr>,
}

impl GuestConfig {
    /// An interface `eth0` with that hardware address and an MTU of 1500.
    #[must_use]
    pub fn new(mac: MacAddress) -> Self {
        Self {
            interface: GuestInterface::new("eth0", mac, 1500),
            routes: Vec::new(),
            name_servers: Vec::new(),
        }
    }

    /// The interface's name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.interface.name = name.into();
        self
    }

    /// The largest packet, in bytes, without the Ethernet header.
    #[must_use]
    pub fn mtu(mut self, bytes: u32) -> Self {
        self.interface.mtu = bytes;
        self
    }

    /// An address.
    #[must_use]
    pub fn address(mut self, address: IpNet) -> Self {
        self.interface = self.interface.address(address);
        self
    }

    /// The default route of the gateway's family.
    #[must_use]
    pub fn gateway(mut self, gateway: IpAddr) -> Self {
        let route = Route::default_through(gateway, &*self.interface.name);
        self.routes.push(route);
        self
    }

    /// Another route.
    #[must_use]
    pub fn route(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    /// A name server.
    #[must_use]
    pub fn name_server(mut self, address: IpAddr) -> Self {
        self.name_servers.push(address);
        self
    }

    /// The lease of a device that is attached to something.
    pub(crate) fn lease(&self, attachment: Attachment) -> Lease {
        let (mac, mtu) = (self.interface.mac, self.interface.mtu);
        let mut lease = Lease::new();
        lease.endpoints = vec![Endpoint::new(attachment, mac, mtu)];
        lease.interfaces = vec![self.interface.clone()];
        lease.routes.clone_from(&self.routes);
        lease.name_servers.clone_from(&self.name_servers);
        lease
    }
}

/// A tap or macvtap that the caller has: by its open queues or by its name in
/// the program's network namespace. It stays as it is afterwards.
#[derive(Clone, Debug)]
pub struct Tap {
    source: TapSource,
    guest: GuestConfig,
}

#[derive(Clone, Debug)]
enum TapSource {
    Queues(Vec<Arc<OwnedFd>>),
    Named(String),
}

impl Tap {
    /// A tap by its open queues, one for each queue pair, which are in
    /// non-blocking mode with vnet headers on (`IFF_NO_PI | IFF_VNET_HDR`). For
    /// one sandbox at a time.
    #[must_use]
    pub fn queues(queues: Vec<OwnedFd>, guest: GuestConfig) -> Self {
        let queues = queues.into_iter().map(Arc::new).collect();
        let source = TapSource::Queues(queues);
        Self { source, guest }
    }

    /// A tap that is there already, by its name.
    #[must_use]
    pub fn named(name: impl Into<String>, guest: GuestConfig) -> Self {
        let source = TapSource::Named(name.into());
        Self { source, guest }
    }
}

#[async_trait]
impl Network for Tap {
    fn name(&self) -> &str {
        "tap"
    }

    fn leaves_nothing(&self) -> bool {
        true
    }

    fn description(&self) -> Option<Value> {
        match &self.source {
            TapSource::Named(tap) => {
                Some(json!({ "kind": "tap", "tap": tap, "guest": self.guest }))
            }
            TapSource::Queues(_) => None,
        }
    }

    async fn setup(&self, request: &SetupRequest) -> Result<Lease> {
        let (source, queues) = (self.source.clone(), request.queues);
        let open = move || match source {
            TapSource::Queues(queues) => {
                let copies = queues.iter().map(|queue| queue.try_clone());
                let copies: io::Result<Vec<_>> = copies.collect();
                let copies = copies.map_err(Error::host("copy the queues of a tap"))?;
                Ok(Attachment::Tap(copies))
            }
            TapSource::Named(name) => {
                let failed = || Error::host(format!("open the tap {name}"));
                let mut rtnl = Rtnl::open().map_err(failed())?;
                // It would be made where there is none.
                let link = Link::find(&mut rtnl, &name).map_err(failed())?;
                WiringModel::None
                    .of(&link)
                    .connect(&mut rtnl, &link, queues)
            }
        };
        Ok(self.guest.lease(inside(None, "open a tap", open).await?))
    }

    async fn counters(&self, _sandbox: &str) -> Result<Vec<Counters>> {
        match &self.source {
            TapSource::Named(tap) => count(tap.clone(), self.guest.interface.name.clone()).await,
            TapSource::Queues(_) => Err(Error::Unsupported {
                network: self.name().to_owned(),
                operation: "counting packets of queues",
            }),
        }
    }

    async fn limit(&self, _sandbox: &str, _interface: &str, limits: &RateLimits) -> Result<()> {
        match &self.source {
            TapSource::Named(tap) => limit_tap("tap", tap.clone(), *limits).await,
            TapSource::Queues(_) => Err(Error::Unsupported {
                network: self.name().to_owned(),
                operation: "limiting queues",
            }),
        }
    }

    async fn teardown(&self, _sandbox: &str) -> Result<()> {
        Ok(())
    }
}

/// What has gone through the tap of that name.
async fn count(tap: String, interface: String) -> Result<Vec<Counters>> {
    let failed = Error::host(format!("look at the tap {tap}"));
    let work = move || {
        let found = Rtnl::open().and_then(|mut rtnl| Link::find(&mut rtnl, &tap));
        Ok(vec![Counters::of(&interface, &found.map_err(failed)?)])
    };
    inside(None, "count packets", work).await
}

/// Limits what the guest receives by the tap of that name. What it sends goes
/// its own way from there.
async fn limit_tap(network: &'static str, tap: String, limits: RateLimits) -> Result<()> {
    limits.validate()?;
    if limits.send.is_some() {
        return Err(Error::Unsupported {
            network: network.to_owned(),
            operation: "limiting what a guest sends",
        });
    }
    let work = move || {
        let failed = Error::host(format!("look at the tap {tap}"));
        let look = || {
            let mut rtnl = Rtnl::open()?;
            let link = Link::find(&mut rtnl, &tap)?;
            Ok((rtnl, link))
        };
        let (mut rtnl, link) = look().map_err(failed)?;
        limit_leaving(&mut rtnl, &link, limits.receive)
    };
    inside(None, "limit rates", work).await
}

/// A vhost-user back end that the caller has, such as one of DPDK or Open
/// vSwitch, by the socket on which it listens.
#[derive(Clone, Debug)]
pub struct VhostUser {
    socket: PathBuf,
    queues: usize,
    guest: GuestConfig,
}

impl VhostUser {
    /// A back end with one queue pair.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>, guest: GuestConfig) -> Self {
        Self {
            socket: socket.into(),
            queues: 1,
            guest,
        }
    }

    /// With so many queue pairs.
    #[must_use]
    pub fn queues(mut self, queues: usize) -> Self {
        self.queues = queues;
        self
    }
}

#[async_trait]
impl Network for VhostUser {
    fn name(&self) -> &str {
        "vhost-user"
    }

    fn leaves_nothing(&self) -> bool {
        true
    }

    fn description(&self) -> Option<Value> {
        let (socket, queues) = (self.socket.to_str()?, self.queues);
        let guest = &self.guest;
        Some(json!({ "kind": "vhost-user", "socket": socket, "queues": queues, "guest": guest }))
    }

    async fn setup(&self, _request: &SetupRequest) -> Result<Lease> {
        Ok(self.guest.lease(Attachment::VhostUser {
            socket: self.socket.clone(),
            queues: self.queues,
        }))
    }

    async fn teardown(&self, _sandbox: &str) -> Result<()> {
        Ok(())
    }
}

/// A port of a bridge in the program's network namespace: the shortest way from
/// a guest to a network of the host.
#[derive(Clone, Debug)]
pub struct BridgePort {
    bridge: String,
    guest: GuestConfig,
}

impl BridgePort {
    /// A port of the bridge of that name.
    #[must_use]
    pub fn new(bridge: impl Into<String>, guest: GuestConfig) -> Self {
        let bridge = bridge.into();
        Self { bridge, guest }
    }
}

/// The tap of a sandbox: FNV-1a, in the fifteen bytes that a name may have.
fn port_name(sandbox: &str) -> String {
    let hash = sandbox
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("kp{:012x}", hash >> 16)
}

#[async_trait]
impl Network for BridgePort {
    fn name(&self) -> &str {
        "bridge-port"
    }

    fn description(&self) -> Option<Value> {
        Some(json!({ "kind": "bridge-port", "bridge": self.bridge, "guest": self.guest }))
    }

    async fn setup(&self, request: &SetupRequest) -> Result<Lease> {
        let name = port_name(&request.sandbox);
        let (bridge, queues) = (self.bridge.clone(), request.queues);
        let mtu = self.guest.interface.mtu;
        let work = move || {
            let connect = || {
                let mut rtnl = Rtnl::open()?;
                let to = Link::find(&mut rtnl, &bridge)?;
                let taps = tap::open(&name, queues)?;
                let port = Link::find(&mut rtnl, &name)?;
                port.join(&mut rtnl, to.index)?;
                tap_up(&mut rtnl, port.index, mtu)?;
                Ok(taps)
            };
            connect().map_err(Error::host(format!("connect a tap to the bridge {bridge}")))
        };
        let taps = inside(None, "connect to a bridge", work).await?;
        Ok(self.guest.lease(Attachment::Tap(taps)))
    }

    async fn counters(&self, sandbox: &str) -> Result<Vec<Counters>> {
        count(port_name(sandbox), self.guest.interface.name.clone()).await
    }

    async fn limit(&self, sandbox: &str, _interface: &str, limits: &RateLimits) -> Result<()> {
        limit_tap("bridge-port", port_name(sandbox), *limits).await
    }

    async fn teardown(&self, sandbox: &str) -> Result<()> {
        let name = port_name(sandbox);
        let work = move || {
            let remove = || {
                let mut rtnl = Rtnl::open()?;
                match Link::find(&mut rtnl, &name) {
                    // It went with its last queue.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    found => found?.remove(&mut rtnl),
                }
            };
            remove().map_err(Error::host(format!("remove the tap {name}")))
        };
        inside(None, "leave a bridge", work).await
    }
}

/// The parts of a description of those above.
fn part<T: serde::de::DeserializeOwned>(description: &Value, key: &str) -> Result<T> {
    serde_json::from_value(description[key].clone()).map_err(|error| Error::InvalidConfig {
        field: "description",
        reason: format!("{key}: {error}"),
    })
}

/// Makes one of those above again.
pub(crate) fn from_description(kind: &str, words: &Value) -> Result<Arc<dyn Network>> {
    let guest: GuestConfig = part(words, "guest")?;
    Ok(match kind {
        "tap" => Arc::new(Tap::named(part::<String>(words, "tap")?, guest)),
        "bridge-port" => Arc::new(BridgePort::new(part::<String>(words, "bridge")?, guest)),
        _ => {
            let network = VhostUser::new(part::<PathBuf>(words, "socket")?, guest);
            Arc::new(network.queues(part(words, "queues")?))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> GuestConfig {
        GuestConfig::new(MacAddress::new([2, 0, 0, 0, 0, 1]))
            .address("10.0.0.2/24".parse().unwrap())
            .gateway("10.0.0.1".parse().unwrap())
    }

    #[tokio::test]
    async fn a_back_end_is_leased_with_what_the_guest_configures() {
        let network = VhostUser::new("/s", guest()).queues(2);
        let lease = network.setup(&SetupRequest::new("s")).await.unwrap();
        assert!(matches!(
            &lease.endpoints[0].attachment,
            Attachment::VhostUser { queues: 2, .. }
        ));
        assert_eq!(lease.routes[0].interface, "eth0");
    }

    #[tokio::test]
    async fn a_tap_that_is_not_there_is_not_made() {
        let network = Tap::named("no-such-tap", guest());
        let error = network.setup(&SetupRequest::new("s")).await.unwrap_err();
        assert!(error.to_string().contains("no-such-tap"), "{error}");
    }

    #[test]
    fn they_survive_their_descriptions() {
        let all: [Box<dyn Network>; 3] = [
            Box::new(Tap::named("tap0", guest())),
            Box::new(BridgePort::new("br0", guest())),
            Box::new(VhostUser::new("/s", guest()).queues(3)),
        ];
        for network in all {
            let words = network.description().unwrap();
            let again = crate::from_description(&words).unwrap();
            assert_eq!(again.description().unwrap(), words);
            assert_eq!(again.name(), network.name());
        }
        assert!(Tap::queues(Vec::new(), guest()).description().is_none());
    }
}
