//! The device: requests from the virtqueues to the FUSE server.
//!
//! Guest-controlled: the descriptor chains and the requests in them. A chain
//! that holds no request is counted and given back.

use std::panic::{AssertUnwindSafe, catch_unwind};

use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{Reader, VirtioFsWriter, Writer};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::DescriptorChain;

use super::route::Router;
use super::tree::FsConfig;
use crate::Result;
use crate::limit::Offences;
use crate::virtio::GuestMemory;

/// Queues for requests; there is one more, for what must not wait.
pub(super) const REQUEST_QUEUES: u8 = 1;

/// A virtio-fs device, without queues and transport. Any number of threads may
/// serve requests with it.
pub(super) struct Device {
    tag: String,
    server: Server<Router>,
    malformed: Offences,
}

impl Device {
    /// The features that it offers.
    pub(super) const FEATURES: u64 =
        1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

    pub(super) fn new(config: &FsConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            tag: config.tag.clone(),
            server: Server::new(Router::new(config.tree.clone())),
            malformed: Offences::default(),
        })
    }

    /// Serves the request in `chain`; says how many bytes the answer has.
    pub(super) fn serve<'m>(
        &self,
        memory: &'m GuestMemory,
        chain: DescriptorChain<&'m GuestMemory>,
    ) -> u32 {
        // A request that the server cannot cope with must not end the device.
        let served = catch_unwind(AssertUnwindSafe(|| self.answer(memory, chain)));
        let answered = served.unwrap_or_else(|_| Err("the server panicked".to_owned()));
        answered.unwrap_or_else(|error| {
            self.complain(&error);
            0
        })
    }

    fn answer<'m>(
        &self,
        memory: &'m GuestMemory,
        chain: DescriptorChain<&'m GuestMemory>,
    ) -> std::result::Result<u32, String> {
        let request = Reader::from_descriptor_chain(memory, chain.clone())
            .map_err(|error| error.to_string())?;
        let reply = VirtioFsWriter::new(memory, chain).map_err(|error| error.to_string())?;
        let written = self
            .server
            .handle_message(request, Writer::VirtioFs(reply), None, None)
            .map_err(|error| error.to_string())?;
        u32::try_from(written).map_err(|error| error.to_string())
    }

    /// Something was wrong with what the guest sent.
    pub(super) fn complain(&self, what: &str) {
        if let Some(total) = self.malformed.count() {
            log::warn!(tag = self.tag.as_str(), total; "fs: {what}");
        }
    }
}
