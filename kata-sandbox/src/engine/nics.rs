//! From what a network gives to what a machine takes.

use std::sync::Arc;

use kata_hypervisor::{NicBackend, NicConfig};
use kata_network::{Attachment, Endpoint};

use crate::error::{Context, ErrorKind, Result};

/// The devices for a lease's endpoints.
pub(super) fn devices(endpoints: Vec<Endpoint>, context: &Context) -> Result<Vec<NicConfig>> {
    endpoints
        .into_iter()
        .map(|endpoint| device(endpoint, context))
        .collect()
}

/// The device for an endpoint.
pub(super) fn device(endpoint: Endpoint, context: &Context) -> Result<NicConfig> {
    let backend = match endpoint.attachment {
        Attachment::Tap(queues) => NicBackend::Tap(queues.into_iter().map(Arc::new).collect()),
        Attachment::Stream(stream) => NicBackend::Stream(Arc::new(stream)),
        Attachment::VhostUser { socket, queues } => NicBackend::VhostUser { socket, queues },
        Attachment::Device(device) => {
            let reason = format!(
                "interface {} is {device}, and no hypervisor of this version takes devices of the host",
                device.interface
            );
            let error = context
                .error(ErrorKind::Unsupported, reason)
                .during("network");
            return Err(error
                .with_remedy("give the sandbox a macvlan on it instead, or name a wiring for it"));
        }
        _ => {
            let reason = "the network gives something that this version does not know";
            return Err(context
                .error(ErrorKind::Unsupported, reason)
                .during("network"));
        }
    };
    Ok(NicConfig::new(endpoint.mac.bytes(), endpoint.mtu, backend))
}

#[cfg(test)]
mod tests {
    use kata_network::{HostDevice, MacAddress, PciFunction};

    use super::*;

    #[test]
    fn a_device_of_the_host_is_named_when_it_is_refused() {
        let address = "0000:01:00.0".parse().unwrap();
        let device = HostDevice::new("pci", "0000:01:00.0", "eth0");
        let device = device.pci(PciFunction::physical(address));
        let mac = MacAddress::new([2, 0, 0, 0, 0, 1]);
        let endpoint = Endpoint::new(Attachment::Device(device), mac, 1500);
        let context = Context::new("start sandbox", "s");
        let error = devices(vec![endpoint], &context).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let named = "eth0 is the physical function 0000:01:00.0";
        assert!(error.to_string().contains(named), "{error}");
    }

    #[test]
    fn a_back_end_keeps_its_queues() {
        let mac = MacAddress::new([2, 0, 0, 0, 0, 1]);
        let socket = "/s".into();
        let endpoint = Endpoint::new(Attachment::VhostUser { socket, queues: 3 }, mac, 9000);
        let nics = devices(vec![endpoint], &Context::new("x", "s")).unwrap();
        assert_eq!((nics[0].mtu, nics[0].backend.queues()), (9000, 3));
    }
}
