//! The trait between a runtime and what connects its sandboxes.

use async_trait::async_trait;

use crate::error::Result;
use crate::lease::Lease;

/// Connects sandboxes.
///
/// ```
/// use kata_network::{Lease, Network, Result, async_trait};
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
///     async fn setup(&self, _sandbox: &str) -> Result<Lease> {
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

    /// Makes what the sandbox needs. On an error, or when the future is
    /// dropped, [`Network::teardown`] is called for whatever was made.
    ///
    /// # Errors
    /// When the sandbox cannot be connected.
    async fn setup(&self, sandbox: &str) -> Result<Lease>;

    /// Takes back all that [`Network::setup`] made for that sandbox, however
    /// far it came. Must succeed when called twice, after a crash, and for a
    /// sandbox it never saw. Not called for an empty lease.
    ///
    /// # Errors
    /// When something is left; says what.
    async fn teardown(&self, sandbox: &str) -> Result<()>;
}
