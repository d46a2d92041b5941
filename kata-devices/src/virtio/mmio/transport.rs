//! The device behind the registers.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_QUEUE_NOTIFY};

use super::registers::{MAGIC, Readable, VENDOR, VERSION, Writable, readable, writable};
use crate::Result;
use crate::virtio::negotiation::Negotiation;
use crate::virtio::signals::{Signals, USED};
use crate::virtio::state::{StateError, TransportState};
use crate::virtio::{GuestMemory, Interrupt, Kick, VirtioDevice};

/// Bytes of configuration space that fit.
pub(super) const CONFIG_SIZE: usize = 0xf00;

/// A place where a write means a kick, to be registered as ioeventfd.
#[derive(Clone, Debug)]
pub struct Doorbell {
    /// Where, from the device's first register.
    pub offset: u64,
    /// The value, of four bytes, that is this queue's.
    pub value: u32,
    /// What the write signals.
    pub kick: Arc<Kick>,
}

/// A virtio device behind memory-mapped registers.
///
/// The machine's backend routes accesses of the guest to [`read`](Self::read) and
/// [`write`](Self::write), from any vCPU, and registers
/// [`kicks`](Self::kicks) as ioeventfds if it can.
pub struct MmioTransport {
    negotiation: Mutex<Negotiation>,
    line: Arc<dyn Interrupt>,
}

impl std::fmt::Debug for MmioTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MmioTransport")
            .field("negotiation", &self.negotiation)
            .finish_non_exhaustive()
    }
}

/// The interrupt of a queue: the device's one line, with its reason noted.
struct UsedInterrupt {
    signals: Arc<Signals>,
    line: Arc<dyn Interrupt>,
}

impl Interrupt for UsedInterrupt {
    fn raise(&self) -> io::Result<()> {
        self.signals.note(USED);
        self.line.raise()
    }

    fn eventfd(&self) -> Option<BorrowedFd<'_>> {
        let fd = self.line.eventfd()?;
        self.signals.set_direct();
        Some(fd)
    }
}

impl MmioTransport {
    /// Bytes of address space that the registers take.
    pub const SIZE: u64 = VIRTIO_MMIO_CONFIG as u64 + CONFIG_SIZE as u64;

    /// Puts `device`, which uses `memory`, behind registers. `line` interrupts the
    /// guest, as an edge.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemory>,
        line: Arc<dyn Interrupt>,
    ) -> Result<Self> {
        Ok(Self {
            negotiation: Mutex::new(Negotiation::new(device, memory)?),
            line,
        })
    }

    /// Where the guest kicks the queues.
    #[must_use]
    pub fn kicks(&self) -> Vec<Doorbell> {
        self.lock()
            .kicks()
            .zip(0..)
            .map(|(kick, value)| Doorbell {
                offset: u64::from(VIRTIO_MMIO_QUEUE_NOTIFY),
                value,
                kick: Arc::clone(kick),
            })
            .collect()
    }

    /// The guest reads at `offset`. What is no register reads as zeroes.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let negotiation = self.lock();
        let Some(register) = readable(offset, data.len()) else {
            return negotiation.complain("a read of what is no register");
        };
        match register {
            Readable::Config(at) => negotiation.read_config(at, data),
            word => data.copy_from_slice(&read_word(&negotiation, word).to_le_bytes()),
        }
    }

    /// The guest writes at `offset`. What is no register is left alone.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let mut negotiation = self.lock();
        let Some(register) = writable(offset, data.len()) else {
            return negotiation.complain("a write of what is no register");
        };
        match (register, <[u8; 4]>::try_from(data)) {
            (Writable::Config(at), _) => negotiation.write_config(at, data),
            (register, Ok(word)) => {
                self.write_word(&mut negotiation, register, u32::from_le_bytes(word));
            }
            (_, Err(_)) => {}
        }
    }

    /// Stops the device's use of guest memory, until [`resume`](Self::resume).
    /// The vCPUs must not run meanwhile. Waits for requests under way.
    ///
    /// # Errors
    /// When those do not end. The device then goes on as before.
    pub fn pause(&self) -> io::Result<()> {
        self.lock().pause()
    }

    /// Ends the device. When this returns, nothing of it uses guest memory, or what
    /// is behind it, and all of that is closed: a disk can be another machine's.
    /// Waits for requests under way, however long the host takes.
    pub fn end(&self) {
        self.lock().end();
    }

    /// Lets the device go on.
    ///
    /// # Errors
    /// When the host refuses something.
    pub fn resume(&self) -> io::Result<()> {
        self.lock().resume()
    }

    /// The state of a paused device.
    ///
    /// # Errors
    /// [`StateError::Unavailable`] when the device is not paused, or has state
    /// that cannot be saved.
    pub fn save(&self) -> Result<TransportState, StateError> {
        self.lock().save()
    }

    /// Makes this device, which was never used, be as the saved one was. It goes
    /// on at once.
    ///
    /// # Errors
    /// When the state is another device's, or of a version that is not known.
    pub fn restore(&self, state: &TransportState) -> Result<(), StateError> {
        let mut negotiation = self.lock();
        let interrupt = self.used_interrupt(&negotiation);
        negotiation.restore(state, Arc::clone(&self.line), &|_, _| {
            Arc::clone(&interrupt)
        })
    }

    /// How often the driver did what no driver does.
    #[must_use]
    pub fn offences(&self) -> u64 {
        self.lock().offences()
    }

    fn lock(&self) -> MutexGuard<'_, Negotiation> {
        self.negotiation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn used_interrupt(&self, negotiation: &Negotiation) -> Arc<dyn Interrupt> {
        Arc::new(UsedInterrupt {
            signals: Arc::clone(negotiation.signals()),
            line: Arc::clone(&self.line),
        })
    }

    fn write_word(&self, negotiation: &mut Negotiation, register: Writable, value: u32) {
        match register {
            Writable::DeviceFeaturesSelect => negotiation.select_offered(value),
            Writable::DriverFeatures => negotiation.choose_half(value),
            Writable::DriverFeaturesSelect => negotiation.select_chosen(value),
            Writable::QueueSelect => negotiation.select_queue(value),
            Writable::QueueSize => negotiation.set_size(value),
            Writable::QueueNotify => negotiation.kick(value),
            Writable::InterruptAck => negotiation.signals().acknowledge(value),
            Writable::QueueArea(area, half) => negotiation.set_area(area, half, value),
            Writable::QueueReady if value == 0 => negotiation.reset_queue(),
            Writable::QueueReset if value == 1 => negotiation.reset_queue(),
            Writable::QueueReset | Writable::SharedMemorySelect | Writable::Config(_) => {}
            Writable::QueueReady => {
                let interrupt = self.used_interrupt(negotiation);
                negotiation.enable(Arc::clone(&self.line), &|_, _| Arc::clone(&interrupt));
            }
            Writable::Status => match u8::try_from(value) {
                Ok(status) => {
                    let interrupt = self.used_interrupt(negotiation);
                    negotiation.write_status(status, Arc::clone(&self.line), &|_, _| {
                        Arc::clone(&interrupt)
                    });
                }
                Err(_) => negotiation.complain("a status that is none"),
            },
        }
    }
}

fn read_word(negotiation: &Negotiation, register: Readable) -> u32 {
    match register {
        Readable::Magic => MAGIC,
        Readable::Version => VERSION,
        Readable::DeviceId => negotiation.device().kind().0,
        Readable::VendorId => VENDOR,
        Readable::DeviceFeatures => negotiation.offered_half(),
        Readable::QueueSizeMax => negotiation
            .selected()
            .map_or(0, |queue| u32::from(queue.max())),
        Readable::QueueReady => negotiation
            .selected()
            .map_or(0, |queue| u32::from(queue.saved().ready)),
        Readable::InterruptStatus => negotiation.signals().pending(),
        Readable::Status => u32::from(negotiation.status()),
        // A length of all ones: there is no such region (§4.2.2.2).
        Readable::SharedMemory => u32::MAX,
        Readable::ConfigGeneration => negotiation.signals().generation(),
        Readable::QueueReset | Readable::Config(_) => 0,
    }
}
