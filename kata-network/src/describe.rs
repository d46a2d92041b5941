//! Networks in words, for other processes.

use std::sync::Arc;

use serde_json::Value;

use crate::cni::Cni;
use crate::error::{Error, Result};
use crate::given;
use crate::netns::NetNs;
use crate::none::None;
use crate::setup::Network;
use crate::user::User;

/// Makes a network of this crate again from what [`Network::description`] said
/// of it, in another process or at another time.
///
/// # Errors
/// When the words describe no network of this crate.
///
/// ```
/// use kata_network::{NetNs, Network, from_description};
///
/// # fn main() -> kata_network::Result<()> {
/// let words = NetNs::new("/run/netns/pod").description();
/// let network = from_description(&words.unwrap_or_default())?;
/// assert_eq!(network.name(), "netns");
/// # Ok(())
/// # }
/// ```
pub fn from_description(description: &Value) -> Result<Arc<dyn Network>> {
    match description["kind"].as_str() {
        Some("none") => Ok(Arc::new(None)),
        Some("netns") => Ok(Arc::new(NetNs::from_description(description)?)),
        Some("cni") => Ok(Arc::new(Cni::from_description(description)?)),
        Some("user") => Ok(Arc::new(User::from_description(description)?)),
        Some(kind @ ("tap" | "bridge-port" | "vhost-user")) => {
            given::from_description(kind, description)
        }
        other => Err(Error::InvalidConfig {
            field: "description",
            reason: format!("{other:?} is no kind of network that this version has"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_described_is_refused() {
        for words in ["null", "{}", r#"{"kind":"carrier-pigeon"}"#] {
            let error = from_description(&serde_json::from_str(words).unwrap()).unwrap_err();
            assert!(error.to_string().contains("no kind of network"), "{error}");
        }
        let none = None.description().unwrap();
        assert_eq!(from_description(&none).unwrap().name(), "none");
    }
}
