//! The keyboard controller, of which kernels use the reset line.

use crate::kvm::bus::PortDevice;
use crate::kvm::ending::GuestEvent;

/// Distance of the command and status register from the data register.
const COMMAND: u16 = 4;
/// Pulses the processor's reset line.
const RESET: u8 = 0xfe;

/// A controller without keyboard and mouse. Its buffers are always empty, so
/// whoever waits for them goes on at once.
#[derive(Debug, Default)]
pub(in crate::kvm) struct I8042;

impl PortDevice for I8042 {
    fn read(&mut self, _offset: u16, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Option<GuestEvent> {
        (offset == COMMAND && data.contains(&RESET)).then_some(GuestEvent::Reset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reset_command_resets() {
        let mut controller = I8042;
        assert_eq!(controller.write(0, &[RESET]), None);
        assert_eq!(controller.write(COMMAND, &[0xd1]), None);
        assert_eq!(controller.write(COMMAND, &[RESET]), Some(GuestEvent::Reset));
    }

    #[test]
    fn its_buffers_are_empty() {
        let mut byte = [0xff];
        I8042.read(COMMAND, &mut byte);
        assert_eq!(byte, [0]);
    }
}
