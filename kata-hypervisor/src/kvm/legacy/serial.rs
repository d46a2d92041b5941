//! The serial port, which is the guest's console.

use std::io::{self, Write};
use std::sync::Arc;

use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial};

use kata_devices::Interrupt;

use crate::console::Tail;
use crate::kvm::bus::PortDevice;
use crate::kvm::ending::GuestEvent;

/// A 16550A whose output is kept, up to its last 64 KiB, and that has no input.
pub(in crate::kvm) struct Uart(Serial<Line, NoEvents, Kept>);

impl std::fmt::Debug for Uart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Uart").finish()
    }
}

/// The interrupt line.
struct Line(Box<dyn Interrupt>);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.raise()
    }
}

/// Where the output goes.
struct Kept(Arc<Tail>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Uart {
    /// A port that interrupts by `line` and writes to `console`.
    pub(in crate::kvm) fn new(line: impl Interrupt + 'static, console: Arc<Tail>) -> Self {
        Self(Serial::new(Line(Box::new(line)), Kept(console)))
    }
}

impl PortDevice for Uart {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        let offset = u8::try_from(offset).unwrap_or(u8::MAX);
        for byte in data {
            *byte = self.0.read(offset);
        }
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Option<GuestEvent> {
        let offset = u8::try_from(offset).unwrap_or(u8::MAX);
        for &byte in data {
            // Keeping a byte cannot fail; an interrupt that is still pending need
            // not be raised again.
            let _ = self.0.write(offset, byte);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoLine;

    impl Interrupt for NoLine {
        fn raise(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_written_is_kept_and_the_transmitter_is_ready() {
        let console = Arc::new(Tail::new(16));
        let mut uart = Uart::new(NoLine, Arc::clone(&console));
        // A string instruction writes several bytes in one exit.
        uart.write(0, b"hi ");
        uart.write(0, b"there");
        assert_eq!(console.bytes(), b"hi there");
        let mut status = [0];
        uart.read(5, &mut status);
        assert_eq!(status[0] & 0x60, 0x60);
    }
}
