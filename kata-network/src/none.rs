//! The network of sandboxes that have none.

use async_trait::async_trait;

use crate::error::Result;
use crate::lease::Lease;
use crate::setup::{Network, SetupRequest};

/// No network: the guest has its loopback, shared by the sandbox's containers,
/// and the host reaches it over vsock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct None;

#[async_trait]
impl Network for None {
    fn name(&self) -> &str {
        "none"
    }

    fn leaves_nothing(&self) -> bool {
        true
    }

    fn description(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "kind": "none" }))
    }

    async fn setup(&self, _request: &SetupRequest) -> Result<Lease> {
        Ok(Lease::new())
    }

    async fn teardown(&self, _sandbox: &str) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_network_leases_nothing_and_takes_nothing_back() {
        let network: Box<dyn Network> = Box::new(None);
        assert_eq!(network.name(), "none");
        assert!(network.leaves_nothing());
        assert!(
            network
                .setup(&SetupRequest::new("s"))
                .await
                .unwrap()
                .is_empty()
        );
        network.teardown("s").await.unwrap();
        network.teardown("s").await.unwrap();
    }
}
