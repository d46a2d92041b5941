//! MSI-X: which interrupts go through, and where to (PCI 3.0 §6.8.2).
//!
//! Guest-controlled: table, masks and the enable bit. An interrupt that is masked
//! is noted as pending, and goes through when it may.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::virtio::Interrupt;

/// A message-signalled interrupt, as the guest wants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// The address that is written.
    pub address: u64,
    /// The value.
    pub data: u32,
}

/// Delivers messages. A backend routes each vector to an irqfd.
pub trait MsiRouter: Send + Sync {
    /// From now on vector `vector` of the function means `message`.
    ///
    /// # Errors
    /// When the host cannot deliver it.
    fn route(&self, vector: u16, message: MsiMessage) -> io::Result<()>;

    /// What delivers the vector's message, wherever it is routed to.
    fn interrupt(&self, vector: u16) -> Arc<dyn Interrupt>;
}

/// The enable and mask bits of the capability's control word.
const ENABLE: u16 = 1 << 15;
const MASK_ALL: u16 = 1 << 14;

#[derive(Clone, Copy, Debug)]
struct Entry {
    message: MsiMessage,
    masked: bool,
    pending: bool,
    /// Somebody else signals the vector's eventfd, masked or not.
    direct: bool,
}

/// What is kept of the vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedVectors {
    control: u16,
    entries: Vec<SavedEntry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct SavedEntry {
    address: u64,
    data: u32,
    masked: bool,
    pending: bool,
}

impl SavedVectors {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[derive(Debug)]
struct State {
    control: u16,
    entries: Vec<Entry>,
}

/// The vectors of a function.
pub(super) struct MsixTable {
    state: Mutex<State>,
    router: Arc<dyn MsiRouter>,
}

impl MsixTable {
    pub(super) fn new(vectors: u16, router: Arc<dyn MsiRouter>) -> Self {
        let entry = Entry {
            message: MsiMessage::default(),
            masked: true,
            pending: false,
            direct: false,
        };
        let state = State {
            control: 0,
            entries: vec![entry; usize::from(vectors)],
        };
        Self {
            state: Mutex::new(state),
            router,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Vectors in all.
    pub(super) fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// The guest reads four or eight bytes of an entry. What there is not is zero.
    pub(super) fn read_entry(&self, index: usize, field: usize, data: &mut [u8]) {
        data.fill(0);
        let state = self.lock();
        let Some(entry) = state.entries.get(index) else {
            return;
        };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&entry.message.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&entry.message.data.to_le_bytes());
        bytes[12] = u8::from(entry.masked);
        for (byte, value) in data.iter_mut().zip(bytes.iter().skip(field)) {
            *byte = *value;
        }
    }

    /// The guest writes four or eight bytes of an entry.
    pub(super) fn write_entry(&self, index: usize, field: usize, data: &[u8]) {
        let mut state = self.lock();
        let Some(entry) = state.entries.get_mut(index) else {
            return;
        };
        let before = *entry;
        for (at, word) in (field..).step_by(4).zip(data.chunks_exact(4)) {
            let value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            let wide = u64::from(value);
            let message = &mut entry.message;
            match at {
                0 => message.address = message.address & !0xffff_ffff | wide,
                4 => message.address = message.address & 0xffff_ffff | wide << 32,
                8 => message.data = value,
                12 => entry.masked = value & 1 != 0,
                _ => {}
            }
        }
        let routed = before.message != entry.message || before.masked != entry.masked;
        if routed && !entry.masked {
            self.refresh(&mut state, index);
        }
    }

    /// The guest reads the pending bits from byte `at` on.
    pub(super) fn read_pending(&self, at: usize, data: &mut [u8]) {
        let state = self.lock();
        for (byte, at) in data.iter_mut().zip(at..) {
            let bits = state.entries.iter().skip(8 * at).take(8);
            *byte = bits
                .rev()
                .fold(0, |byte, entry| byte << 1 | u8::from(entry.pending));
        }
    }

    /// The guest wrote the control word of the capability.
    pub(super) fn set_control(&self, control: u16) {
        let mut state = self.lock();
        let before = std::mem::replace(&mut state.control, control);
        if before != control && state.goes_through() {
            for index in 0..state.entries.len() {
                if !state.entries[index].masked {
                    self.refresh(&mut state, index);
                }
            }
        }
    }

    /// A vector is unmasked, or its message is another: routes it, and lets go
    /// what was held back.
    fn refresh(&self, state: &mut State, index: usize) {
        if !state.goes_through() {
            return;
        }
        let (Some(entry), Ok(vector)) = (state.entries.get_mut(index), u16::try_from(index)) else {
            return;
        };
        if let Err(error) = self.router.route(vector, entry.message) {
            log::warn!(error:%, vector; "virtio-pci: cannot route an interrupt");
            return;
        }
        // What others signalled meanwhile went nowhere: one too many harms nobody.
        if std::mem::take(&mut entry.pending) || entry.direct {
            let _ = self.router.interrupt(vector).raise();
        }
    }

    fn raise(&self, vector: u16) -> io::Result<()> {
        let mut state = self.lock();
        let through = state.goes_through();
        let Some(entry) = state.entries.get_mut(usize::from(vector)) else {
            return Ok(());
        };
        if !through || entry.masked {
            entry.pending = true;
            return Ok(());
        }
        drop(state);
        self.router.interrupt(vector).raise()
    }

    fn set_direct(&self, vector: u16) {
        if let Some(entry) = self.lock().entries.get_mut(usize::from(vector)) {
            entry.direct = true;
        }
    }

    /// What must be kept.
    pub(super) fn save(&self) -> SavedVectors {
        let state = self.lock();
        let entries = state.entries.iter().map(|entry| SavedEntry {
            address: entry.message.address,
            data: entry.message.data,
            masked: entry.masked,
            pending: entry.pending,
        });
        SavedVectors {
            control: state.control,
            entries: entries.collect(),
        }
    }

    /// Takes over as many vectors as there are, and routes those that go through.
    pub(super) fn restore(&self, saved: &SavedVectors) {
        let mut state = self.lock();
        state.control = saved.control;
        for (entry, saved) in state.entries.iter_mut().zip(&saved.entries) {
            *entry = Entry {
                message: MsiMessage {
                    address: saved.address,
                    data: saved.data,
                },
                masked: saved.masked,
                pending: saved.pending,
                direct: false,
            };
        }
        for index in 0..state.entries.len() {
            if !state.entries[index].masked {
                self.refresh(&mut state, index);
            }
        }
    }

    /// The function starts anew; the table is the guest's own and stays.
    pub(super) fn forget(&self) {
        for entry in &mut self.lock().entries {
            (entry.pending, entry.direct) = (false, false);
        }
    }
}

impl State {
    fn goes_through(&self) -> bool {
        self.control & (ENABLE | MASK_ALL) == ENABLE
    }
}

/// One vector as an interrupt.
pub(super) struct Vector {
    table: Arc<MsixTable>,
    vector: u16,
    source: Arc<dyn Interrupt>,
}

impl Vector {
    pub(super) fn new(table: &Arc<MsixTable>, vector: u16) -> Self {
        Self {
            table: Arc::clone(table),
            vector,
            source: table.router.interrupt(vector),
        }
    }
}

impl Interrupt for Vector {
    fn raise(&self) -> io::Result<()> {
        self.table.raise(self.vector)
    }

    fn eventfd(&self) -> Option<BorrowedFd<'_>> {
        let fd = self.source.eventfd()?;
        self.table.set_direct(self.vector);
        Some(fd)
    }
}

/// No vector at all: nobody wants to hear.
pub(super) struct Silence;

impl Interrupt for Silence {
    fn raise(&self) -> io::Result<()> {
        Ok(())
    }
}
