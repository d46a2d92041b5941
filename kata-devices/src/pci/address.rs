//! Which register of which function an access means. Pure.

/// Bytes of configuration space per function behind the ECAM window.
const ECAM_FUNCTION: u64 = 4096;

/// A register of a function's configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigAddress {
    /// The bus.
    pub bus: u8,
    /// The device on the bus, 0 to 31.
    pub device: u8,
    /// The function of the device, 0 to 7.
    pub function: u8,
    /// The register's offset in bytes, 0 to 4095.
    pub register: u16,
}

impl ConfigAddress {
    /// The register at `offset` of an ECAM window (PCI Express 5.0 §7.2.2); `None`
    /// beyond its 256 buses.
    #[must_use]
    pub fn from_ecam(offset: u64) -> Option<Self> {
        let function = offset / ECAM_FUNCTION;
        Some(Self {
            bus: u8::try_from(function >> 8).ok()?,
            device: u8::try_from(function >> 3 & 0x1f).ok()?,
            function: u8::try_from(function & 7).ok()?,
            register: u16::try_from(offset % ECAM_FUNCTION).ok()?,
        })
    }

    /// The register that the address port names (PCI 3.0 §3.2.2.3.2), at `within`
    /// bytes of its word; `None` while the port names none.
    fn from_port(value: u32, within: u8) -> Option<Self> {
        let [register, low, bus, enable] = value.to_le_bytes();
        (enable & 0x80 != 0).then(|| Self {
            bus,
            device: low >> 3,
            function: low & 7,
            register: u16::from(register & !3) + u16::from(within),
        })
    }
}

/// The two ports by which a PC reads and writes configuration space: the address
/// at 0xcf8, the data at 0xcfc.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConfigPorts {
    address: u32,
}

impl ConfigPorts {
    /// The first port.
    pub const BASE: u16 = 0xcf8;
    /// Ports in all.
    pub const LEN: u16 = 8;

    /// What an access of `width` bytes at `offset` from the first port means:
    /// `None` is the address port, or nothing.
    #[must_use]
    pub fn data(&self, offset: u16, width: usize) -> Option<ConfigAddress> {
        let within = u8::try_from(offset.checked_sub(4)?).ok()?;
        let fits = matches!(width, 1 | 2 | 4) && usize::from(within) + width <= 4;
        if !fits {
            return None;
        }
        ConfigAddress::from_port(self.address, within)
    }

    /// Reads the address port; anything else there reads as ones.
    pub fn read_address(&self, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        if offset == 0 && data.len() == 4 {
            data.copy_from_slice(&self.address.to_le_bytes());
        }
    }

    /// Writes the address port; only whole words count.
    pub fn write_address(&mut self, offset: u16, data: &[u8]) {
        if let (0, Ok(word)) = (offset, <[u8; 4]>::try_from(data)) {
            self.address = u32::from_le_bytes(word);
        }
    }
}
