//! Who answers when the guest touches a port or an address without memory.
//!
//! Guest-controlled: every address, width and value, from any processor. What
//! nobody answers reads as all ones and is otherwise ignored, as on a board.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use kata_devices::pci::PciBus;

use super::ending::GuestEvent;

/// A device behind ports. Registers are a byte wide unless it says otherwise.
pub(super) trait PortDevice: Send {
    /// The guest reads, at this distance from the device's first port.
    fn read(&mut self, offset: u16, data: &mut [u8]);

    /// The guest writes.
    fn write(&mut self, offset: u16, data: &[u8]) -> Option<GuestEvent>;
}

/// A device behind addresses, which several processors may use at once.
pub(super) trait MmioDevice: Send + Sync {
    /// The guest reads, at this distance from the device's first address.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// The guest writes.
    fn write(&self, offset: u64, data: &[u8]);
}

/// A device behind ports, of which one processor at a time has the use.
type Port = Mutex<Box<dyn PortDevice>>;

/// All devices of a machine that exits reach.
#[derive(Default)]
pub(super) struct Bus {
    ports: Vec<(Range<u16>, Port)>,
    addresses: Vec<(Range<u64>, Arc<dyn MmioDevice>)>,
    /// Functions, whose addresses the guest chooses.
    pci: Option<Arc<PciBus>>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ports: Vec<_> = self.ports.iter().map(|(range, _)| range).collect();
        let addresses: Vec<_> = self.addresses.iter().map(|(range, _)| range).collect();
        f.debug_struct("Bus")
            .field("ports", &ports)
            .field("addresses", &addresses)
            .field("pci", &self.pci)
            .finish()
    }
}

impl Bus {
    /// Puts a device behind `ports`, which no other device has.
    pub(super) fn add_port(&mut self, ports: Range<u16>, device: impl PortDevice + 'static) {
        self.ports.push((ports, Mutex::new(Box::new(device))));
    }

    /// Puts a device behind `addresses`, which no other device has.
    pub(super) fn add_mmio(&mut self, addresses: Range<u64>, device: Arc<dyn MmioDevice>) {
        self.addresses.push((addresses, device));
    }

    /// Puts a PCI bus behind all addresses that nobody else has.
    pub(super) fn set_pci(&mut self, bus: Arc<PciBus>) {
        self.pci = Some(bus);
    }

    /// The guest reads a port.
    pub(super) fn read_port(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((offset, device)) = self.port(port) {
            device
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .read(offset, data);
        }
    }

    /// The guest writes a port.
    pub(super) fn write_port(&self, port: u16, data: &[u8]) -> Option<GuestEvent> {
        let (offset, device) = self.port(port)?;
        device
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(offset, data)
    }

    /// The guest reads an address without memory.
    pub(super) fn read_mmio(&self, address: u64, data: &mut [u8]) {
        match self.mmio(address) {
            Some((offset, device)) => device.read(offset, data),
            None => {
                let read = |pci: &Arc<PciBus>| pci.read_memory(address, data);
                if !self.pci.as_ref().is_some_and(read) {
                    data.fill(0xff);
                }
            }
        }
    }

    /// The guest writes one.
    pub(super) fn write_mmio(&self, address: u64, data: &[u8]) {
        if let Some((offset, device)) = self.mmio(address) {
            device.write(offset, data);
        } else if let Some(pci) = &self.pci {
            // Nobody is there: lost, as on a board.
            let _ = pci.write_memory(address, data);
        }
    }

    fn port(&self, port: u16) -> Option<(u16, &Port)> {
        let (range, device) = self.ports.iter().find(|(range, _)| range.contains(&port))?;
        Some((port - range.start, device))
    }

    fn mmio(&self, address: u64) -> Option<(u64, &Arc<dyn MmioDevice>)> {
        let (range, device) = self
            .addresses
            .iter()
            .find(|(range, _)| range.contains(&address))?;
        Some((address - range.start, device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers a byte per register.
    #[derive(Default)]
    struct Registers(Mutex<[u8; 4]>);

    impl MmioDevice for Registers {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(self.0.lock().unwrap()[usize::try_from(offset).unwrap()]);
        }

        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap()[usize::try_from(offset).unwrap()] = data[0];
        }
    }

    impl PortDevice for Registers {
        fn read(&mut self, offset: u16, data: &mut [u8]) {
            MmioDevice::read(self, offset.into(), data);
        }

        fn write(&mut self, offset: u16, data: &[u8]) -> Option<GuestEvent> {
            MmioDevice::write(self, offset.into(), data);
            (data == [0xfe]).then_some(GuestEvent::Reset)
        }
    }

    #[test]
    fn each_address_reaches_its_device_and_no_other() {
        let mut bus = Bus::default();
        bus.add_port(0x60..0x64, Registers::default());
        bus.add_mmio(0x1000..0x1004, Arc::new(Registers::default()));
        assert_eq!(bus.write_port(0x61, &[7]), None);
        assert_eq!(bus.write_port(0x62, &[0xfe]), Some(GuestEvent::Reset));
        bus.write_mmio(0x1003, &[9]);
        let mut byte = [0];
        bus.read_port(0x61, &mut byte);
        assert_eq!(byte, [7]);
        bus.read_mmio(0x1003, &mut byte);
        assert_eq!(byte, [9]);
    }

    #[test]
    fn what_nobody_answers_reads_as_ones() {
        let bus = Bus::default();
        let mut word = [0; 4];
        bus.read_port(0xcf8, &mut word);
        assert_eq!(word, [0xff; 4]);
        word.fill(0);
        bus.read_mmio(u64::MAX, &mut word);
        assert_eq!(word, [0xff; 4]);
        assert_eq!(bus.write_port(u16::MAX, &[0]), None);
        bus.write_mmio(0, &[0]);
    }
}
