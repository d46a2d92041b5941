//! The front end of the vhost-user protocol.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemory as _};

use super::eventfd::duplicate;
use super::link::Link;
use super::watch::Watch;
use crate::virtio::{DeviceEvents, DeviceQueue, GuestMemory, ThreadStart};

/// How long a back end may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What we make use of if the back end has it.
const WANTED: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::CONFIG)
    .union(VhostUserProtocolFeatures::REPLY_ACK);

/// A back end in another process.
pub(super) struct VhostUser {
    front_end: Frontend,
    offered: u64,
    protocol: VhostUserProtocolFeatures,
    watch: Watch,
}

impl VhostUser {
    /// Negotiates with the back end at the other end of `stream`.
    pub(super) fn new(
        stream: UnixStream,
        queues: usize,
        thread_start: &ThreadStart,
    ) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let watch = Watch::start(stream.try_clone()?.into(), thread_start)?;
        let queues = u64::try_from(queues).map_err(io::Error::other)?;
        let mut front_end = Frontend::from_stream(stream, queues);
        front_end.set_owner().map_err(io::Error::other)?;
        let offered = front_end.get_features().map_err(io::Error::other)?;
        let mut protocol = VhostUserProtocolFeatures::empty();
        if offered & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() != 0 {
            let has = front_end
                .get_protocol_features()
                .map_err(io::Error::other)?;
            protocol = has & WANTED;
            front_end
                .set_protocol_features(protocol)
                .map_err(io::Error::other)?;
        }
        if protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            front_end.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        Ok(Self {
            front_end,
            offered,
            protocol,
            watch,
        })
    }

    /// The first `length` bytes of the back end's configuration space; nothing if
    /// it has none.
    pub(super) fn read_config(&mut self, length: usize) -> io::Result<Vec<u8>> {
        if length == 0 || !self.protocol.contains(VhostUserProtocolFeatures::CONFIG) {
            return Ok(Vec::new());
        }
        let size = u32::try_from(length).map_err(io::Error::other)?;
        let flags = VhostUserConfigFlags::WRITABLE;
        let (_, bytes) = self
            .front_end
            .get_config(0, size, flags, &vec![0; length])
            .map_err(io::Error::other)?;
        Ok(bytes)
    }

    fn has_protocol(&self) -> bool {
        self.offered & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() != 0
    }
}

impl Link for VhostUser {
    fn features(&self) -> u64 {
        self.offered & !VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn begin(
        &mut self,
        features: u64,
        memory: &GuestMemory,
        events: &Arc<dyn DeviceEvents>,
    ) -> io::Result<()> {
        self.watch.tell(Some(Arc::clone(events)));
        let protocol = self.offered & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let served = features & self.offered;
        self.front_end
            .set_features(served | protocol)
            .map_err(io::Error::other)?;
        let regions: Vec<_> = memory
            .iter()
            .map(VhostUserMemoryRegionInfo::from_guest_region)
            .collect::<Result<_, _>>()
            .map_err(io::Error::other)?;
        self.front_end
            .set_mem_table(&regions)
            .map_err(io::Error::other)
    }

    fn start(&mut self, index: usize, running: &DeviceQueue) -> io::Result<()> {
        let state = running.queue.queue();
        let place = |address: u64| -> io::Result<u64> {
            let host = running
                .memory
                .get_host_address(GuestAddress(address))
                .map_err(io::Error::other)?;
            Ok(host.addr() as u64)
        };
        let address = VringConfigData {
            queue_max_size: state.max_size(),
            queue_size: state.size(),
            flags: 0,
            desc_table_addr: place(state.desc_table())?,
            used_ring_addr: place(state.used_ring())?,
            avail_ring_addr: place(state.avail_ring())?,
            log_addr: None,
        };
        let call = call_of(running)?;
        let kick = duplicate(std::os::fd::AsFd::as_fd(&*running.kick))?;
        let set_up = || -> vhost::Result<()> {
            self.front_end.set_vring_num(index, state.size())?;
            self.front_end.set_vring_base(index, state.next_avail())?;
            self.front_end.set_vring_addr(index, &address)?;
            self.front_end.set_vring_call(index, &call)?;
            self.front_end.set_vring_kick(index, &kick)
        };
        set_up().map_err(io::Error::other)?;
        if self.has_protocol() {
            self.front_end
                .set_vring_enable(index, true)
                .map_err(io::Error::other)?;
        }
        // What was offered before the back end listened has had its kick.
        running.kick.signal();
        Ok(())
    }

    fn stop(&mut self, index: usize) -> io::Result<u16> {
        let base = self
            .front_end
            .get_vring_base(index)
            .map_err(io::Error::other)?;
        u16::try_from(base & 0xffff).map_err(io::Error::other)
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        let Ok(offset) = u32::try_from(offset) else {
            return;
        };
        if self.protocol.contains(VhostUserProtocolFeatures::CONFIG) {
            let flags = VhostUserConfigFlags::WRITABLE;
            if let Err(error) = self.front_end.set_config(offset, flags, data) {
                log::debug!(error:%; "vhost-user: the back end takes no configuration");
            }
        }
    }

    fn end(&mut self) {
        self.watch.tell(None);
    }
}

/// The eventfd by which used buffers of a queue are told.
pub(super) fn call_of(running: &DeviceQueue) -> io::Result<vmm_sys_util::eventfd::EventFd> {
    let interrupt = running.queue.interrupt();
    let fd = interrupt.and_then(|interrupt| interrupt.eventfd());
    let fd = fd.ok_or_else(|| {
        let reason = "the transport's interrupts have no eventfds";
        io::Error::new(io::ErrorKind::Unsupported, reason)
    })?;
    duplicate(fd)
}
