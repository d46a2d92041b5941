//! The trait between a runtime and what connects its sandboxes.

use async_trait::async_trait;

use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::lease::Lease;
use crate::traffic::{Counters, RateLimits};

/// The most queue pairs that an endpoint has.
pub const MOST_QUEUES: usize = 8;

/// What a sandbox asks of its network.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SetupRequest {
    /// The sandbox's id.
    pub sandbox: String,
    /// How many queue pairs each endpoint should have, from 1 to
    /// [`MOST_QUEUES`]: as many as there are virtual processors.
    pub queues: usize,
    /// How many devices the machine can take, beside those that are reserved.
    pub most_devices: usize,
}

impl SetupRequest {
    /// What a sandbox with one processor asks for.
    #[must_use]
    pub fn new(sandbox: impl Into<String>) -> Self {
        Self {
            sandbox: sandbox.into(),
            queues: 1,
            most_devices: usize::MAX,
        }
    }

    /// For so many virtual processors.
    #[must_use]
    pub fn processors(mut self, count: u32) -> Self {
        let count = usize::try_from(count).unwrap_or(MOST_QUEUES);
        self.queues = count.clamp(1, MOST_QUEUES);
        self
    }

    /// With room for so many devices.
    #[must_use]
    pub fn most_devices(mut self, count: usize) -> Self {
        self.most_devices = count;
        self
    }
}

/// Connects sandboxes.
///
/// ```
/// use kata_network::{Lease, Network, Result, SetupRequest, async_trait};
///
/// /// Gives sandboxes a name server and nothing else.
/// #[derive(Debug)]
/// struct NameServer(std::net::IpAddr);
///
/// #[async_trait]
/// impl Network for NameServer {
///     fn name(&self) -> &str {
///         "name-server"
///     }
///     async fn setup(&self, _request: &SetupRequest) -> Result<Lease> {
///         let mut lease = Lease::new();
///         lease.name_servers.push(self.0);
///         Ok(lease)
///     }
///     async fn teardown(&self, _sandbox: &str) -> Result<()> {
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait Network: std::fmt::Debug + Send + Sync + 'static {
    /// The network's name, for journals, plans and errors.
    fn name(&self) -> &str;

    /// Whether set-ups never make anything on the host, so that there is
    /// nothing to note in a journal and nothing to tear down.
    fn leaves_nothing(&self) -> bool {
        false
    }

    /// The network in words from which [`from_description`](crate::from_description)
    /// makes it again in another process; `None` when that cannot be.
    fn description(&self) -> Option<serde_json::Value> {
        None
    }

    /// Makes devices whose number is known before all else is, so that the
    /// machine can boot with them while [`Network::setup`] goes on. That is
    /// called afterwards, for the same sandbox and by the same value, joins
    /// them to what they belong to, and gives no endpoints of theirs again: of
    /// each, a [`GuestInterface`](crate::GuestInterface) has the endpoint's
    /// hardware address, and the one that it is to have instead. On an error,
    /// or when the future is dropped, [`Network::teardown`] is called.
    ///
    /// Nothing, unless a network knows better.
    ///
    /// # Errors
    /// When they cannot be made.
    async fn reserve(&self, _request: &SetupRequest) -> Result<Vec<Endpoint>> {
        Ok(Vec::new())
    }

    /// Makes what the sandbox needs. On an error, or when the future is
    /// dropped, [`Network::teardown`] is called for whatever was made.
    ///
    /// # Errors
    /// When the sandbox cannot be connected.
    async fn setup(&self, request: &SetupRequest) -> Result<Lease>;

    /// Looks again at what the sandbox is connected to: endpoints that are new,
    /// the names of interfaces that are gone, and all interfaces, routes, rules
    /// and neighbours as they are now.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a network that never changes.
    async fn rescan(&self, _request: &SetupRequest) -> Result<Lease> {
        Err(Error::Unsupported {
            network: self.name().to_owned(),
            operation: "being looked at again",
        })
    }

    /// What has gone through each of the sandbox's interfaces, as the host counts
    /// it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a network that does not count.
    async fn counters(&self, _sandbox: &str) -> Result<Vec<Counters>> {
        Err(Error::Unsupported {
            network: self.name().to_owned(),
            operation: "counting packets",
        })
    }

    /// Limits what goes through an interface of the sandbox, from now on and
    /// instead of earlier limits.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a network that cannot.
    async fn limit(&self, _sandbox: &str, _interface: &str, _limits: &RateLimits) -> Result<()> {
        Err(Error::Unsupported {
            network: self.name().to_owned(),
            operation: "limiting rates",
        })
    }

    /// Takes back all that [`Network::setup`] made for that sandbox, however
    /// far it came. Must succeed when called twice, after a crash, and for a
    /// sandbox it never saw. Not called for an empty lease.
    ///
    /// # Errors
    /// When something is left; says what.
    async fn teardown(&self, sandbox: &str) -> Result<()>;
}
