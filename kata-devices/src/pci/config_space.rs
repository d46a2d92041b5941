//! The configuration space of one function (PCI 3.0 §6).

/// Bytes of configuration space without extensions.
pub const CONFIG_SIZE: usize = 256;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BARS: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;

/// The function answers in its memory BARs.
const MEMORY_ENABLE: u8 = 1 << 1;

/// The first free byte for capabilities.
const FIRST_CAPABILITY: u8 = 0x40;

/// Registers, and which of their bits a guest may write.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; CONFIG_SIZE],
    writable: [u8; CONFIG_SIZE],
    /// Where the next capability goes.
    free: u8,
    /// Where the previous one says what follows.
    link: usize,
}

impl ConfigSpace {
    /// The space of a function with these identifiers; `class` is base class,
    /// subclass and interface.
    #[must_use]
    pub fn new(vendor: u16, device: u16, class: [u8; 3], revision: u8) -> Self {
        let mut space = Self {
            bytes: [0; CONFIG_SIZE],
            writable: [0; CONFIG_SIZE],
            free: FIRST_CAPABILITY,
            link: CAPABILITIES,
        };
        space.set(0x00, &vendor.to_le_bytes());
        space.set(0x02, &device.to_le_bytes());
        space.set(0x08, &[revision, class[2], class[1], class[0]]);
        // Memory, bus mastering, and no INTx.
        space.allow(COMMAND, &[0x06, 0x04]);
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Sets registers to what they are at first.
    ///
    /// # Panics
    /// When they are outside of the space.
    pub fn set(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Lets a guest write the bits of `mask`.
    ///
    /// # Panics
    /// When they are outside of the space.
    pub fn allow(&mut self, at: usize, mask: &[u8]) {
        self.writable[at..at + mask.len()].copy_from_slice(mask);
    }

    /// Says who made the device that the function is part of.
    pub fn set_subsystem(&mut self, vendor: u16, device: u16) {
        self.set(0x2c, &vendor.to_le_bytes());
        self.set(0x2e, &device.to_le_bytes());
    }

    /// Makes BARs `index` and the next one a 64-bit memory BAR of `size` bytes, a
    /// power of two of at least 16.
    ///
    /// # Panics
    /// When there is no such pair of BARs.
    pub fn add_memory_bar(&mut self, index: usize, size: u64) {
        assert!(index < 5 && size.is_power_of_two() && size >= 16);
        let at = BARS + 4 * index;
        // 64 bits wide, not prefetchable.
        self.set(at, &[0x04]);
        self.allow(at, &(!(size - 1)).to_le_bytes());
        self.writable[at] &= 0xf0;
    }

    /// Adds a capability with the content that follows its two header bytes; `mask`
    /// are the bits of it that a guest may write. Gives its offset.
    ///
    /// # Panics
    /// When the space is full.
    pub fn add_capability(&mut self, id: u8, content: &[u8], mask: &[u8]) -> usize {
        let at = usize::from(self.free);
        self.set(at, &[id, 0]);
        self.set(at + 2, content);
        self.allow(at + 2, mask);
        self.bytes[self.link] = self.free;
        self.link = at + 1;
        let next = (at + 2 + content.len()).next_multiple_of(4);
        self.free = u8::try_from(next).expect("capabilities fit into the space");
        self.bytes[STATUS] |= 1 << 4;
        at
    }

    /// The guest reads. Beyond the end there are zeroes: no extended capabilities.
    pub fn read(&self, at: usize, data: &mut [u8]) {
        data.fill(0);
        for (byte, value) in data.iter_mut().zip(self.bytes.iter().skip(at)) {
            *byte = *value;
        }
    }

    /// The guest writes. Bits that are not its own stay as they are.
    pub fn write(&mut self, at: usize, data: &[u8]) {
        let places = self.bytes.iter_mut().zip(self.writable).skip(at);
        for ((byte, mask), new) in places.zip(data) {
            *byte = *byte & !mask | new & mask;
        }
    }

    /// Takes over what a guest has written to a space that is else the same; `false`,
    /// and nothing is changed, when it is not.
    #[must_use]
    pub(crate) fn take_over(&mut self, bytes: &[u8]) -> bool {
        let Ok(bytes) = <[u8; CONFIG_SIZE]>::try_from(bytes) else {
            return false;
        };
        let own = self.bytes.iter().zip(&self.writable);
        let same = own
            .zip(&bytes)
            .all(|((own, mask), new)| own & !mask == new & !mask);
        if same {
            self.bytes = bytes;
        }
        same
    }

    /// Bytes from `at` on.
    pub(crate) fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        self.read(at, &mut bytes);
        bytes
    }

    /// Where a 64-bit memory BAR is, while the function answers there.
    #[must_use]
    pub fn bar(&self, index: usize) -> Option<u64> {
        let at = BARS + 4 * index;
        let enabled = self.bytes[COMMAND] & MEMORY_ENABLE != 0;
        let address = u64::from_le_bytes(self.get(at)) & !0xf;
        // A BAR at zero has not been given a place.
        (enabled && address != 0).then_some(address)
    }
}
