//! The device behind the function.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::capabilities::Layout;
use super::msix::{MsiRouter, MsixTable, Silence, Vector};
use super::registers::{BAR_SIZE, Common, NOTIFY, NOTIFY_STEP, Register, decode};
use super::state::{PciState, damaged};
use crate::Result;
use crate::pci::{CONFIG_SIZE, PciFunction};
use crate::virtio::negotiation::Negotiation;
use crate::virtio::state::StateError;
use crate::virtio::{GuestMemory, Interrupt, Kick, VirtioDevice};

/// `VIRTIO_MSI_NO_VECTOR` (§4.1.5.1.2).
const NO_VECTOR: u16 = 0xffff;

/// A place in the BAR where a write of any value means a kick, to be registered as
/// ioeventfd.
#[derive(Clone, Debug)]
pub struct PciDoorbell {
    /// Where, from the BAR's first byte.
    pub offset: u64,
    /// What the write signals.
    pub kick: Arc<Kick>,
}

/// A virtio device as a function of a [`PciBus`](crate::pci::PciBus).
pub struct PciTransport {
    state: Mutex<State>,
    msix: Arc<MsixTable>,
    config_vector: Arc<AtomicU32>,
    /// Where the BAR is, zero for nowhere: for those who look for the function of an
    /// address, and must not wait for what it does.
    bar: AtomicU64,
}

struct State {
    negotiation: Negotiation,
    layout: Layout,
}

impl std::fmt::Debug for PciTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PciTransport")
            .field("negotiation", &self.lock().negotiation)
            .finish_non_exhaustive()
    }
}

/// The interrupt of a change, by the vector that is set when it comes.
struct ConfigInterrupt {
    msix: Arc<MsixTable>,
    vector: Arc<AtomicU32>,
}

impl Interrupt for ConfigInterrupt {
    fn raise(&self) -> io::Result<()> {
        match u16::try_from(self.vector.load(Ordering::Acquire)) {
            Ok(NO_VECTOR) | Err(_) => Ok(()),
            Ok(vector) => Vector::new(&self.msix, vector).raise(),
        }
    }
}

impl PciTransport {
    /// Bytes of the function's BAR.
    pub const BAR_SIZE: u64 = BAR_SIZE;

    /// Makes `device`, which uses `memory`, a function. `router` delivers its
    /// interrupts: one vector per queue and one for changes.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemory>,
        router: Arc<dyn MsiRouter>,
    ) -> Result<Self> {
        let vectors = Self::vectors(&*device);
        let layout = Layout::new(device.kind(), vectors);
        let negotiation = Negotiation::new(device, memory)?;
        Ok(Self {
            state: Mutex::new(State {
                negotiation,
                layout,
            }),
            msix: Arc::new(MsixTable::new(vectors, router)),
            config_vector: Arc::new(AtomicU32::new(u32::from(NO_VECTOR))),
            bar: AtomicU64::new(0),
        })
    }

    /// How many vectors a device has as a function.
    #[must_use]
    pub fn vectors(device: &dyn VirtioDevice) -> u16 {
        u16::try_from(device.queue_sizes().len() + 1).unwrap_or(u16::MAX)
    }

    /// Where the guest kicks the queues.
    #[must_use]
    pub fn kicks(&self) -> Vec<PciDoorbell> {
        let state = self.lock();
        let doorbells = (NOTIFY.0..).step_by(usize::try_from(NOTIFY_STEP).expect("4"));
        doorbells
            .zip(state.negotiation.kicks())
            .map(|(offset, kick)| PciDoorbell {
                offset,
                kick: Arc::clone(kick),
            })
            .collect()
    }

    /// Stops the device's use of guest memory, until [`resume`](Self::resume).
    /// The vCPUs must not run meanwhile. Waits for requests under way.
    ///
    /// # Errors
    /// When those do not end. The device then goes on as before.
    pub fn pause(&self) -> io::Result<()> {
        self.lock().negotiation.pause()
    }

    /// Ends the device. When this returns, nothing of it uses guest memory, or what
    /// is behind it, and all of that is closed: a disk can be another machine's.
    /// Waits for requests under way, however long the host takes.
    pub fn end(&self) {
        self.lock().negotiation.end();
    }

    /// Lets the device go on.
    ///
    /// # Errors
    /// When the host refuses something.
    pub fn resume(&self) -> io::Result<()> {
        self.lock().negotiation.resume()
    }

    /// The state of a paused device.
    ///
    /// # Errors
    /// [`StateError::Unavailable`] when the device is not paused, or has state
    /// that cannot be saved.
    pub fn save(&self) -> std::result::Result<PciState, StateError> {
        let mut state = self.lock();
        let transport = state.negotiation.save()?;
        let config_vector = self.config_vector.load(Ordering::Acquire);
        let config_vector = u16::try_from(config_vector).unwrap_or(NO_VECTOR);
        let space: [u8; CONFIG_SIZE] = state.layout.space.get(0);
        Ok(PciState::new(
            &space,
            config_vector,
            self.msix.save(),
            transport,
        ))
    }

    /// Makes this function, which was never used, be as the saved one was: it
    /// answers at the same BAR, of which
    /// [`PciBus::tell_place`](crate::pci::PciBus::tell_place) tells, and the device
    /// goes on at once. One that cannot take the state over is of no more use.
    ///
    /// # Errors
    /// When the state is another device's, or of a version that is not known.
    pub fn restore(&self, saved: &PciState) -> std::result::Result<(), StateError> {
        saved.check(self.msix.len())?;
        let mut state = self.lock();
        if !state.layout.space.take_over(&saved.space) {
            return Err(damaged("its configuration space is another function's"));
        }
        self.note_bar(&state.layout);
        let config_vector = self.vector(saved.config_vector.into()).unwrap_or(NO_VECTOR);
        self.config_vector
            .store(config_vector.into(), Ordering::Release);
        self.msix.restore(&saved.vectors);
        let negotiation = &mut state.negotiation;
        negotiation.restore(
            &saved.transport,
            self.config_interrupt(),
            &self.interrupts_of_queues(),
        )
    }

    /// How often the driver did what no driver does.
    #[must_use]
    pub fn offences(&self) -> u64 {
        self.lock().negotiation.offences()
    }

    #[cfg(test)]
    pub(super) fn msix(&self) -> &Arc<MsixTable> {
        &self.msix
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config_interrupt(&self) -> Arc<dyn Interrupt> {
        Arc::new(ConfigInterrupt {
            msix: Arc::clone(&self.msix),
            vector: Arc::clone(&self.config_vector),
        })
    }

    /// What used buffers of a queue with some vector are told by.
    fn interrupts_of_queues(&self) -> impl Fn(usize, Option<u16>) -> Arc<dyn Interrupt> + use<> {
        let msix = Arc::clone(&self.msix);
        move |_, vector| match vector {
            Some(vector) => Arc::new(Vector::new(&msix, vector)),
            None => Arc::new(Silence),
        }
    }

    fn note_bar(&self, layout: &Layout) {
        let bar = layout.space.bar(0).unwrap_or(0);
        self.bar.store(bar, Ordering::Release);
    }

    /// A vector of the function, or none.
    fn vector(&self, value: u32) -> Option<u16> {
        let vector = u16::try_from(value).ok()?;
        (usize::from(vector) < self.msix.len()).then_some(vector)
    }

    fn read_register(&self, negotiation: &Negotiation, register: Register, data: &mut [u8]) {
        match register {
            Register::Common(common) => {
                let value = self.read_common(negotiation, common).to_le_bytes();
                for (byte, value) in data.iter_mut().zip(value) {
                    *byte = value;
                }
            }
            Register::Isr => {
                // Reading it acknowledges (§4.1.4.5).
                let pending = negotiation.signals().pending();
                negotiation.signals().acknowledge(pending);
                data.fill(0);
                if let Some(first) = data.first_mut() {
                    *first = pending.to_le_bytes()[0];
                }
            }
            Register::Device(at) => negotiation.read_config(at, data),
            Register::Entry(index, field) => self.msix.read_entry(index, field, data),
            Register::Pending(at) => self.msix.read_pending(at, data),
            Register::Notify(_) => data.fill(0),
        }
    }

    fn read_common(&self, negotiation: &Negotiation, register: Common) -> u32 {
        let queue = negotiation.selected();
        let saved = queue.map(|queue| *queue.saved());
        match register {
            Common::DeviceFeatureSelect => negotiation.offered_select(),
            Common::DeviceFeature => negotiation.offered_half(),
            Common::DriverFeatureSelect => negotiation.chosen_select(),
            Common::DriverFeature => negotiation.chosen_half(),
            Common::ConfigVector => self.config_vector.load(Ordering::Acquire),
            Common::QueueCount => u32::try_from(negotiation.kicks().count()).unwrap_or(u32::MAX),
            Common::Status => u32::from(negotiation.status()),
            Common::ConfigGeneration => negotiation.signals().generation(),
            Common::QueueSelect => u32::from(negotiation.selected_index()),
            // Zero says that there is no such queue.
            Common::QueueSize => saved.map_or(0, |saved| u32::from(saved.size)),
            Common::QueueVector => {
                let vector = saved.and_then(|saved| saved.vector);
                u32::from(vector.unwrap_or(NO_VECTOR))
            }
            Common::QueueEnable => saved.map_or(0, |saved| u32::from(saved.ready)),
            Common::QueueNotifyOffset => u32::from(negotiation.selected_index()),
            Common::QueueArea(area, half) => saved.map_or(0, |saved| half.of(saved.area(area))),
            Common::QueueReset => 0,
        }
    }

    fn write_register(&self, state: &mut State, register: Register, data: &[u8]) {
        let negotiation = &mut state.negotiation;
        match register {
            Register::Common(common) => {
                let mut bytes = [0; 4];
                let count = data.len().min(4);
                bytes[..count].copy_from_slice(&data[..count]);
                self.write_common(negotiation, common, u32::from_le_bytes(bytes));
            }
            Register::Device(at) => negotiation.write_config(at, data),
            Register::Notify(queue) => negotiation.kick(queue),
            Register::Entry(index, field) => self.msix.write_entry(index, field, data),
            Register::Isr | Register::Pending(_) => negotiation.complain("a write of what is read"),
        }
    }

    fn write_common(&self, negotiation: &mut Negotiation, register: Common, value: u32) {
        let interrupt_of = self.interrupts_of_queues();
        match register {
            Common::DeviceFeatureSelect => negotiation.select_offered(value),
            Common::DriverFeatureSelect => negotiation.select_chosen(value),
            Common::DriverFeature => negotiation.choose_half(value),
            Common::ConfigVector => {
                let vector = self.vector(value).unwrap_or(NO_VECTOR);
                self.config_vector
                    .store(u32::from(vector), Ordering::Release);
            }
            Common::Status => {
                if value == 0 {
                    self.msix.forget();
                    self.config_vector
                        .store(u32::from(NO_VECTOR), Ordering::Release);
                }
                let status = value.to_le_bytes()[0];
                negotiation.write_status(status, self.config_interrupt(), &interrupt_of);
            }
            Common::QueueSelect => negotiation.select_queue(value),
            Common::QueueSize => negotiation.set_size(value),
            Common::QueueVector => negotiation.set_vector(self.vector(value)),
            Common::QueueEnable if value == 1 => {
                negotiation.enable(self.config_interrupt(), &interrupt_of);
            }
            Common::QueueReset if value == 1 => negotiation.reset_queue(),
            Common::QueueArea(area, half) => negotiation.set_area(area, half, value),
            Common::QueueEnable
            | Common::QueueReset
            | Common::DeviceFeature
            | Common::QueueCount
            | Common::ConfigGeneration
            | Common::QueueNotifyOffset => negotiation.complain("a write of what is read"),
        }
    }

    /// The access that the window in configuration space asks for (§4.1.4.9): an
    /// offset in BAR 0 and a width.
    fn windowed(layout: &Layout) -> Option<(u64, usize)> {
        let at = layout.window;
        let [bar] = layout.space.get(at + 4);
        let offset = u32::from_le_bytes(layout.space.get(at + 8));
        let width = u32::from_le_bytes(layout.space.get(at + 12));
        let width = usize::try_from(width).ok()?;
        (bar == 0 && matches!(width, 1 | 2 | 4)).then_some((u64::from(offset), width))
    }
}

/// Where the window's data is, from the capability's first byte.
const WINDOW_DATA: usize = 16;

impl PciFunction for PciTransport {
    fn read_config(&self, at: usize, data: &mut [u8]) {
        let mut state = self.lock();
        let State {
            negotiation,
            layout,
        } = &mut *state;
        if at == layout.window + WINDOW_DATA
            && let Some((offset, width)) = Self::windowed(layout)
            && let Some(register) = decode(offset, width)
        {
            let mut bytes = [0; 4];
            self.read_register(negotiation, register, &mut bytes[..width]);
            layout.space.write(at, &bytes);
        }
        layout.space.read(at, data);
    }

    fn write_config(&self, at: usize, data: &[u8]) {
        let mut state = self.lock();
        state.layout.space.write(at, data);
        let control = u16::from_le_bytes(state.layout.space.get(state.layout.msix_control));
        self.msix.set_control(control);
        self.note_bar(&state.layout);
        if at == state.layout.window + WINDOW_DATA
            && let Some((offset, width)) = Self::windowed(&state.layout)
            && let Some(register) = decode(offset, width)
        {
            let bytes: [u8; 4] = state.layout.space.get(at);
            self.write_register(&mut state, register, &bytes[..width]);
        }
    }

    fn bar(&self) -> Option<u64> {
        let bar = self.bar.load(Ordering::Acquire);
        (bar != 0).then_some(bar)
    }

    fn bar_size(&self) -> u64 {
        BAR_SIZE
    }

    fn read_bar(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let state = self.lock();
        match decode(offset, data.len()) {
            Some(register) => self.read_register(&state.negotiation, register, data),
            None => state.negotiation.complain("a read of what is no register"),
        }
    }

    fn write_bar(&self, offset: u64, data: &[u8]) {
        let mut state = self.lock();
        match decode(offset, data.len()) {
            Some(register) => self.write_register(&mut state, register, data),
            None => state.negotiation.complain("a write of what is no register"),
        }
    }
}
