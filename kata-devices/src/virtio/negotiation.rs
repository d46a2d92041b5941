//! What a driver has agreed on with a device, whatever the transport.
//!
//! Guest-controlled: every value. A step out of order is counted, logged at a
//! bounded rate and ignored; a queue that lies nowhere breaks the device until
//! it is reset.

mod ended;
mod snapshot;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_bindings::virtio_config::{VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueState};

use self::ended::Ended;
use super::device::{Activation, DeviceEvents, DeviceQueue, VirtioDevice};
use super::kick::Kick;
use super::queue::{GuestMemory, Interrupt, VirtQueue};
use super::queue_setup::{Area, Half, QueueSetup};
use super::signals::{Events, Signals};
use super::status::{self, Change, Status};
use crate::limit::Offences;
use crate::{Error, Result};

/// How used buffers of queue `.0`, with the MSI-X vector `.1`, are told.
type InterruptOf<'a> = &'a dyn Fn(usize, Option<u16>) -> Arc<dyn Interrupt>;

/// A device and what its driver has agreed on.
pub(crate) struct Negotiation {
    device: Box<dyn VirtioDevice>,
    memory: Arc<GuestMemory>,
    status: Status,
    offered_select: u32,
    chosen_select: u32,
    chosen: u64,
    selected: u16,
    queues: Vec<QueueSetup>,
    signals: Arc<Signals>,
    /// Set when the present life of the device is over.
    retired: Arc<AtomicBool>,
    active: bool,
    paused: bool,
    offences: Offences,
}

impl std::fmt::Debug for Negotiation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Negotiation")
            .field("kind", &self.device.kind())
            .field("status", &self.status)
            .field("chosen", &self.chosen)
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

impl Negotiation {
    pub(crate) fn new(device: Box<dyn VirtioDevice>, memory: Arc<GuestMemory>) -> Result<Self> {
        let queues = device
            .queue_sizes()
            .iter()
            .map(|size| QueueSetup::new(*size))
            .collect::<std::io::Result<_>>()
            .map_err(Error::host("make an eventfd"))?;
        Ok(Self {
            device,
            memory,
            status: Status::default(),
            offered_select: 0,
            chosen_select: 0,
            chosen: 0,
            selected: 0,
            queues,
            signals: Arc::new(Signals::default()),
            retired: Arc::default(),
            active: false,
            paused: false,
            offences: Offences::default(),
        })
    }

    pub(crate) fn device(&self) -> &dyn VirtioDevice {
        &*self.device
    }

    pub(super) fn signals(&self) -> &Arc<Signals> {
        &self.signals
    }

    pub(crate) fn kicks(&self) -> impl Iterator<Item = &Arc<Kick>> {
        self.queues.iter().map(|queue| &queue.kick)
    }

    /// Something was wrong with what the driver did.
    pub(crate) fn complain(&self, what: &str) {
        if let Some(total) = self.offences.count() {
            log::warn!(device_type = self.device.kind().0, total; "virtio: {what}");
        }
    }

    /// How often the driver did what no driver does.
    pub(crate) fn offences(&self) -> u64 {
        self.offences.total()
    }

    /// Ends the device. When this returns it has let go of all that it had,
    /// however long the host took for what it did. What is left needs a reset, and
    /// has nothing to start again.
    pub(crate) fn end(&mut self) {
        self.retired.store(true, Ordering::Release);
        for queue in &mut self.queues {
            queue.held = None;
        }
        self.active = false;
        let ended = Ended::of(&*self.device);
        drop(std::mem::replace(&mut self.device, Box::new(ended)));
        self.signals.break_down();
    }

    // Features (virtio 1.2 §2.2).

    fn offered(&self) -> u64 {
        self.device.features() | 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_F_RING_RESET
    }

    pub(crate) fn offered_select(&self) -> u32 {
        self.offered_select
    }

    pub(crate) fn chosen_select(&self) -> u32 {
        self.chosen_select
    }

    pub(crate) fn select_offered(&mut self, select: u32) {
        self.offered_select = select;
    }

    pub(crate) fn select_chosen(&mut self, select: u32) {
        self.chosen_select = select;
    }

    pub(crate) fn offered_half(&self) -> u32 {
        half(self.offered_select).map_or(0, |half| half.of(self.offered()))
    }

    pub(crate) fn chosen_half(&self) -> u32 {
        half(self.chosen_select).map_or(0, |half| half.of(self.chosen))
    }

    pub(crate) fn choose_half(&mut self, bits: u32) {
        if self.status.has(status::FEATURES_OK) || !self.status.has(status::DRIVER) {
            return self.complain("features are chosen at the wrong time");
        }
        match half(self.chosen_select) {
            Some(half) => half.set(&mut self.chosen, bits),
            None if bits == 0 => {}
            None => self.complain("features are chosen that there are not"),
        }
    }

    // Status (§2.1).

    pub(crate) fn status(&self) -> u8 {
        let broken = u8::from(self.signals.is_broken()) * status::NEEDS_RESET;
        self.status.0 | broken
    }

    pub(crate) fn write_status(
        &mut self,
        value: u8,
        config_interrupt: Arc<dyn Interrupt>,
        interrupt_of: InterruptOf<'_>,
    ) {
        match self.status.change(value) {
            Change::Reset => return self.reset(),
            Change::Noted => {}
            Change::Invalid => return self.complain("the status changes out of order"),
            Change::FeaturesChosen => {
                let strange = self.chosen & !self.offered() != 0;
                if strange || self.chosen & 1 << VIRTIO_F_VERSION_1 == 0 {
                    return self.complain("the driver chose features that do not go together");
                }
            }
            Change::DriverReady => {
                self.status.0 = value & !status::NEEDS_RESET;
                return self.activate(config_interrupt, interrupt_of);
            }
        }
        self.status.0 = value & !status::NEEDS_RESET;
    }

    fn reset(&mut self) {
        self.retired.store(true, Ordering::Release);
        self.retired = Arc::default();
        if self.active {
            self.device.reset();
        }
        self.active = false;
        self.paused = false;
        self.signals.reset();
        self.status = Status::default();
        (self.chosen, self.chosen_select, self.offered_select) = (0, 0, 0);
        self.selected = 0;
        for queue in &mut self.queues {
            queue.clear();
        }
    }

    fn events(&self, interrupt: Arc<dyn Interrupt>) -> Arc<dyn DeviceEvents> {
        Arc::new(Events {
            signals: Arc::clone(&self.signals),
            interrupt,
            retired: Arc::clone(&self.retired),
        })
    }

    fn activate(&mut self, config_interrupt: Arc<dyn Interrupt>, interrupt_of: InterruptOf<'_>) {
        let events = self.events(config_interrupt);
        let mut queues = Vec::new();
        for index in 0..self.queues.len() {
            if !self.queues[index].saved.ready {
                continue;
            }
            let Some(queue) = self.running(index, interrupt_of, &events) else {
                self.complain("a queue does not lie in guest memory");
                return events.needs_reset();
            };
            queues.push((index, queue));
        }
        self.hand_over(queues, &events);
    }

    fn hand_over(&mut self, queues: Vec<(usize, DeviceQueue)>, events: &Arc<dyn DeviceEvents>) {
        let activation = Activation {
            features: self.chosen,
            events: Arc::clone(events),
            queues,
        };
        self.active = true;
        if let Err(error) = self.device.activate(activation) {
            log::error!(device_type = self.device.kind().0, error:%; "virtio: cannot start a device");
            events.needs_reset();
        }
    }

    /// The queue as the device gets it; `None` when its rings lie nowhere.
    fn running(
        &self,
        index: usize,
        interrupt_of: InterruptOf<'_>,
        events: &Arc<dyn DeviceEvents>,
    ) -> Option<DeviceQueue> {
        let setup = &self.queues[index];
        let state = QueueState {
            max_size: setup.max,
            next_avail: setup.saved.next_available,
            next_used: setup.saved.next_used,
            event_idx_enabled: self.chosen & 1 << VIRTIO_RING_F_EVENT_IDX != 0,
            size: setup.saved.size,
            ready: true,
            desc_table: setup.saved.descriptors,
            avail_ring: setup.saved.available,
            used_ring: setup.saved.used,
        };
        let queue = Queue::try_from(state).ok()?;
        let mut queue = VirtQueue::new(queue, interrupt_of(index, setup.saved.vector));
        if !queue.lies_in(&self.memory) {
            return None;
        }
        queue.set_events(Some(Arc::clone(events)));
        Some(DeviceQueue {
            queue,
            kick: Arc::clone(&setup.kick),
            memory: Arc::clone(&self.memory),
        })
    }

    // Queues (§4.1.4.3, §4.2.2).

    pub(crate) fn select_queue(&mut self, index: u32) {
        // Beyond the largest index there is no queue either.
        self.selected = u16::try_from(index).unwrap_or(u16::MAX);
    }

    pub(crate) fn selected_index(&self) -> u16 {
        self.selected
    }

    /// The selected queue; `None` when there is none of that number.
    pub(crate) fn selected(&self) -> Option<&QueueSetup> {
        self.queues.get(usize::from(self.selected))
    }

    /// The selected queue, while it may be changed.
    fn changeable(&mut self) -> Option<&mut QueueSetup> {
        let at = usize::from(self.selected);
        let known = self.status.has(status::FEATURES_OK);
        let may = known && self.queues.get(at).is_some_and(|queue| !queue.saved.ready);
        if !may {
            self.complain("a queue is changed at the wrong time");
            return None;
        }
        self.queues.get_mut(at)
    }

    pub(crate) fn set_size(&mut self, size: u32) {
        let Some(queue) = self.changeable() else {
            return;
        };
        match u16::try_from(size) {
            Ok(size) if size.is_power_of_two() && size <= queue.max => queue.saved.size = size,
            _ => self.complain("a queue's size is no power of two, or too large"),
        }
    }

    pub(crate) fn set_area(&mut self, area: Area, half: Half, value: u32) {
        let Some(queue) = self.changeable() else {
            return;
        };
        let address = match area {
            Area::Descriptors => &mut queue.saved.descriptors,
            Area::Available => &mut queue.saved.available,
            Area::Used => &mut queue.saved.used,
        };
        half.set(address, value);
    }

    pub(crate) fn set_vector(&mut self, vector: Option<u16>) {
        if let Some(queue) = self.queues.get_mut(usize::from(self.selected)) {
            queue.saved.vector = vector;
        }
    }

    /// Enables the selected queue. After `DRIVER_OK` only one that was reset
    /// (§2.6.1) starts.
    pub(crate) fn enable(
        &mut self,
        config_interrupt: Arc<dyn Interrupt>,
        interrupt_of: InterruptOf<'_>,
    ) {
        let Some(queue) = self.changeable() else {
            return;
        };
        queue.saved.ready = true;
        if !self.active {
            return;
        }
        let index = usize::from(self.selected);
        let events = self.events(config_interrupt);
        let Some(queue) = self.running(index, interrupt_of, &events) else {
            self.complain("a queue does not lie in guest memory");
            return events.needs_reset();
        };
        if let Err(error) = self.device.resume(index, queue) {
            log::error!(device_type = self.device.kind().0, error:%; "virtio: cannot start a queue");
            events.needs_reset();
        }
    }

    /// Takes the selected queue away from the device and forgets its set-up.
    pub(crate) fn reset_queue(&mut self) {
        let index = usize::from(self.selected);
        if index >= self.queues.len() {
            return self.complain("a queue is reset that there is not");
        }
        if self.active
            && let Err(error) = self.device.quiesce(index)
        {
            // Only a reset of the whole device gets it away.
            self.complain(&error.to_string());
            self.signals.break_down();
        }
        self.queues[index].clear();
    }

    /// A kick that came as a register write.
    pub(crate) fn kick(&self, index: u32) {
        let queue = usize::try_from(index)
            .ok()
            .and_then(|at| self.queues.get(at));
        match queue {
            Some(queue) if self.active => queue.kick.signal(),
            _ => self.complain("a kick for a queue that there is not"),
        }
    }

    // Configuration space (§2.5).

    pub(crate) fn read_config(&self, offset: usize, into: &mut [u8]) {
        into.fill(0);
        let config = self.device.config();
        let Some(rest) = config.get(offset..) else {
            return;
        };
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
    }

    pub(crate) fn write_config(&mut self, offset: usize, data: &[u8]) {
        if self.status.has(status::DRIVER) {
            self.device.write_config(offset, data);
        } else {
            self.complain("the configuration is written without a driver");
        }
    }
}

fn half(select: u32) -> Option<Half> {
    match select {
        0 => Some(Half::Low),
        1 => Some(Half::High),
        _ => None,
    }
}
