//! The vhost-user protocol: what the front end asks, done to a [`Driven`] device.
//!
//! A ring runs when the front end has given it a kick and enabled it; any change
//! of memory, features or interrupts stops what runs, and starts it again.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVirtioFeatures,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::QueueT;

use super::events::FrontEndEvents;
use super::memory::{MAX_REGIONS, SharedMemory};
use crate::virtio::{DeviceQueue, Driven, Interrupt, Kick, MAX_SIZE, VirtQueue};

/// Bytes of configuration space that a front end may ask for.
const MAX_CONFIG: usize = 256;

/// A ring, as far as the front end has set it up.
#[derive(Debug, Default)]
struct Ring {
    /// Here while it does not run; with the back end while it does.
    queue: Option<VirtQueue>,
    kick: Option<Arc<Kick>>,
    enabled: bool,
}

impl Ring {
    fn new() -> Self {
        Self {
            queue: Some(VirtQueue::default()),
            ..Self::default()
        }
    }

    fn should_run(&self) -> bool {
        self.enabled && self.kick.is_some()
    }
}

/// Serves the front end's requests.
#[derive(Debug)]
pub(super) struct Handler<B> {
    backend: B,
    memory: SharedMemory,
    events: Arc<FrontEndEvents>,
    rings: Vec<Ring>,
    features: u64,
    /// The front end enabled rings before it could; they are once it can.
    early: bool,
}

/// The eventfd by which the front end wants to hear of used buffers.
struct Call(OwnedFd);

impl Interrupt for Call {
    fn raise(&self) -> io::Result<()> {
        rustix::io::write(&self.0, &1u64.to_ne_bytes())?;
        Ok(())
    }
}

impl<B: Driven> Handler<B> {
    pub(super) fn new(backend: B) -> Self {
        let rings = (0..backend.served_queues()).map(|_| Ring::new()).collect();
        Self {
            backend,
            memory: SharedMemory::default(),
            events: Arc::default(),
            rings,
            features: 0,
            early: false,
        }
    }

    pub(super) fn backend(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Stops all rings; the back end uses no guest memory after this.
    pub(super) fn stop(&mut self) {
        for index in 0..self.rings.len() {
            self.halt(index);
        }
    }

    /// The front end enabled a ring, of which the `vhost` crate does not tell which,
    /// before it negotiated the right to.
    pub(super) fn enabled_early(&mut self) {
        self.early = true;
    }

    fn ring(&mut self, index: u32) -> Result<(usize, &mut Ring)> {
        let index = usize::try_from(index).map_err(|_| refused("there is no such queue"))?;
        let ring = self
            .rings
            .get_mut(index)
            .ok_or_else(|| refused("there is no such queue"))?;
        Ok((index, ring))
    }

    fn halt(&mut self, index: usize) {
        if let Some(stopped) = self.backend.stop(index) {
            self.rings[index].queue = Some(stopped.queue);
        }
    }

    /// Starts the ring if it should run and does not.
    fn resume(&mut self, index: usize) -> Result<()> {
        let ring = &mut self.rings[index];
        if !ring.should_run() {
            return Ok(());
        }
        let (Some(mut queue), Some(kick)) = (ring.queue.take(), ring.kick.clone()) else {
            return Ok(());
        };
        let memory = self.memory.memory();
        let state = queue.configure();
        state.set_ready(true);
        let used = state.used_idx(&*memory, std::sync::atomic::Ordering::Acquire);
        let (true, Ok(used)) = (queue.lies_in(&memory), used) else {
            queue.configure().set_ready(false);
            ring.queue = Some(queue);
            return Err(refused("the queue does not lie in guest memory"));
        };
        queue.configure().set_next_used(used.0);
        queue.set_events(Some(Arc::clone(&self.events) as _));
        let running = DeviceQueue {
            queue,
            kick,
            memory,
        };
        self.backend
            .start(index, running)
            .map_err(Error::ReqHandlerError)
    }

    /// Changes a ring while it does not run.
    fn change(&mut self, index: u32, change: impl FnOnce(&mut VirtQueue)) -> Result<()> {
        let (index, _) = self.ring(index)?;
        self.halt(index);
        let queue = self.rings[index]
            .queue
            .as_mut()
            .ok_or_else(|| refused("the queue does not end"))?;
        change(queue);
        self.resume(index)
    }

    /// Changes what all rings depend on while none runs.
    fn change_all(&mut self, change: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.stop();
        let changed = change(self);
        for index in 0..self.rings.len() {
            self.resume(index)?;
        }
        changed
    }

    fn forget_rings(&mut self) {
        self.stop();
        self.rings.fill_with(Ring::new);
    }
}

/// A request that is not granted. The front end hears of it if it asked to, and
/// the connection goes on.
pub(super) fn refused(reason: &'static str) -> Error {
    Error::ReqHandlerError(io::Error::new(io::ErrorKind::InvalidInput, reason))
}

impl<B: Driven> VhostUserBackendReqHandlerMut for Handler<B> {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.forget_rings();
        self.backend.reset();
        self.features = 0;
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        self.forget_rings();
        self.backend.reset();
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.backend.features() | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.get_features()? != 0 {
            return Err(refused("features that were not offered"));
        }
        let enable = features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0;
        let enable = enable || std::mem::take(&mut self.early);
        let event_idx = features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        self.change_all(|handler| {
            handler.features = features;
            let virtio = features & !VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
            handler.backend.negotiated(virtio);
            handler
                .backend
                .attach(Some(Arc::clone(&handler.events) as _));
            for ring in &mut handler.rings {
                ring.enabled |= enable;
                if let Some(queue) = &mut ring.queue {
                    queue.configure().set_event_idx(event_idx);
                }
            }
            Ok(())
        })
    }

    fn set_mem_table(&mut self, regions: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<()> {
        self.change_all(|handler| handler.memory.replace(regions, files))?;
        log::debug!(bytes = self.memory.size(); "vhost-user: guest memory is mapped");
        Ok(())
    }

    fn set_vring_num(&mut self, index: u32, size: u32) -> Result<()> {
        let size = u16::try_from(size).map_err(|_| refused("the value is out of range"))?;
        if !size.is_power_of_two() || size > MAX_SIZE {
            return Err(refused("the size of a queue is a power of two up to 1024"));
        }
        self.change(index, |queue| queue.configure().set_size(size))
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let descriptor = self.memory.translate(descriptor)?;
        let available = self.memory.translate(available)?;
        let used = self.memory.translate(used)?;
        let mut fits = Ok(());
        self.change(index, |queue| {
            let state = queue.configure();
            fits = state
                .try_set_desc_table_address(descriptor)
                .and_then(|()| state.try_set_avail_ring_address(available))
                .and_then(|()| state.try_set_used_ring_address(used));
        })?;
        fits.map_err(|_| refused("the value is out of range"))
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base =
            u16::try_from(base & 0xffff).map_err(|_| refused("the value is out of range"))?;
        self.change(index, |queue| queue.configure().set_next_avail(base))
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        // There is no way to refuse this but to hang up.
        let (at, _) = self.ring(index).map_err(|_| Error::InvalidParam)?;
        self.halt(at);
        let ring = &mut self.rings[at];
        ring.kick = None;
        let queue = ring
            .queue
            .as_mut()
            .ok_or_else(|| refused("the queue does not end"))?;
        queue.set_interrupt(None);
        queue.configure().set_ready(false);
        Ok(VhostUserVringState::new(
            index,
            u32::from(queue.queue().next_avail()),
        ))
    }

    fn set_vring_kick(&mut self, index: u8, kick: Option<File>) -> Result<()> {
        // A front end that wants to be polled is not served.
        let kick = kick.ok_or_else(|| refused("queues are not polled"))?;
        let (at, _) = self.ring(u32::from(index))?;
        self.halt(at);
        self.rings[at].kick = Some(Arc::new(Kick::from(OwnedFd::from(kick))));
        self.resume(at)
    }

    fn set_vring_call(&mut self, index: u8, call: Option<File>) -> Result<()> {
        self.change(u32::from(index), |queue| {
            queue.set_interrupt(call.map(|file| Arc::new(Call(file.into())) as Arc<dyn Interrupt>));
        })
    }

    fn set_vring_err(&mut self, index: u8, error: Option<File>) -> Result<()> {
        let index = u32::from(index);
        self.ring(index)?;
        let error = error.map(|file| Kick::from(OwnedFd::from(file)));
        self.events.set_error(index, error);
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        let mut features = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
        features.set(
            VhostUserProtocolFeatures::CONFIG,
            self.backend.serves_config(),
        );
        Ok(features)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        u64::try_from(self.rings.len()).map_err(|_| Error::BackendInternalError)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let (at, ring) = self.ring(index)?;
        ring.enabled = enable;
        if enable {
            self.resume(at)
        } else {
            self.halt(at);
            Ok(())
        }
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        if !self.backend.serves_config() {
            return Err(Error::InvalidParam);
        }
        let mut space = self.backend.config();
        // What a front end knows beyond the device's own space is zero.
        space.resize(space.len().max(MAX_CONFIG), 0);
        let start = usize::try_from(offset).map_err(|_| Error::InvalidParam)?;
        let size = usize::try_from(size).map_err(|_| Error::InvalidParam)?;
        let end = start.checked_add(size).ok_or(Error::InvalidParam)?;
        Ok(space.get(start..end).ok_or(Error::InvalidParam)?.to_vec())
    }

    fn set_config(&mut self, offset: u32, data: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        let offset = usize::try_from(offset).map_err(|_| Error::InvalidParam)?;
        self.backend.write_config(offset, data);
        Ok(())
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        Err(Error::InvalidOperation("this is no GPU"))
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        Err(Error::InvalidOperation("there are no shared objects"))
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(Error::InvalidOperation(
            "requests in flight are not tracked",
        ))
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        Err(Error::InvalidOperation(
            "requests in flight are not tracked",
        ))
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        u64::try_from(MAX_REGIONS).map_err(|_| Error::BackendInternalError)
    }

    fn add_mem_region(&mut self, region: &VhostUserSingleMemoryRegion, file: File) -> Result<()> {
        self.change_all(|handler| handler.memory.add(region, file))
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        self.change_all(|handler| handler.memory.remove(region))
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        Err(Error::InvalidOperation(
            "the device's state cannot be transferred",
        ))
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(Error::InvalidOperation(
            "the device's state cannot be transferred",
        ))
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(Error::InvalidOperation("there is no shared memory region"))
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        Err(Error::InvalidOperation("changed pages are not logged"))
    }
}
