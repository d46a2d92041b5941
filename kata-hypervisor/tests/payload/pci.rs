//! The driver's side of a PCI bus, as steps of a payload.

use super::Payload;
use super::assembly::VECTOR;

/// The ports of configuration space.
const ADDRESS: u16 = 0xcf8;
const VALUE: u16 = 0xcfc;
/// The window of configuration space in memory.
const WINDOW: u32 = 0xe000_0000;
/// Where the host puts the first BAR, and bytes of each.
const FIRST_BAR: u32 = 0xc000_0000;
const BAR: u32 = 0x1_0000;
/// Registers of configuration space.
const COMMAND: u32 = 4;
/// Memory, and mastering of the bus.
const ANSWER: u32 = 6;
/// Where a virtio function's MSI-X capability is, and what switches it on.
pub(crate) const MSIX: u32 = 0x98;
pub(crate) const MSIX_ON: u32 = 1 << 31;
pub(crate) const MSIX_MASKED: u32 = 1 << 30;
/// Messages that are a vector of the first processor.
const MESSAGES: u32 = 0xfee0_0000;

/// A function of the only bus, by the number of its device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function(pub(crate) u32);

impl Function {
    /// Where its BAR is from the beginning.
    pub(crate) fn bar(self) -> u32 {
        FIRST_BAR + (self.0 - 1) * BAR
    }

    fn select(self, payload: Payload, register: u32) -> Payload {
        payload.out_word(ADDRESS, 1 << 31 | self.0 << 11 | register)
    }

    /// Shows a word of its configuration space, by way of the ports.
    pub(crate) fn show(self, payload: Payload, register: u32) -> Payload {
        self.select(payload, register).input_word(VALUE)
    }

    /// Shows a word of its configuration space, by way of memory.
    pub(crate) fn show_in_window(self, payload: Payload, register: u32) -> Payload {
        payload.show_word(WINDOW + (self.0 << 15) + register)
    }

    /// Writes a word of its configuration space.
    pub(crate) fn set(self, payload: Payload, register: u32, value: u32) -> Payload {
        self.select(payload, register).out_word(VALUE, value)
    }

    /// Lets it answer at its BAR and write to memory, and switches MSI-X on.
    pub(crate) fn enable(self, payload: Payload) -> Payload {
        let payload = self.set(payload, COMMAND, ANSWER);
        self.set(payload, MSIX, MSIX_ON)
    }

    /// Has a vector of the function be the one that payloads count.
    pub(crate) fn set_vector(self, payload: Payload, vector: u32) -> Payload {
        let entry = self.bar() + 0x8000 + 16 * vector;
        payload
            .write(entry, MESSAGES)
            .write(entry + 4, 0)
            .write(entry + 8, VECTOR.into())
            .write(entry + 12, 0)
    }
}
