//! The configuration space of a virtio function (virtio 1.2 §4.1.2, §4.1.4).

use super::registers as r;
use crate::pci::ConfigSpace;
use crate::virtio::DeviceKind;

/// Red Hat's number, and the first of those for virtio 1.
const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE: u16 = 0x1040;

const VENDOR_SPECIFIC: u8 = 0x09;
const MSIX: u8 = 0x11;

/// Which structure a capability describes.
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const ISR: u8 = 3;
const DEVICE: u8 = 4;
const CONFIG_ACCESS: u8 = 5;

/// The space, and where in it the parts are that do something.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) space: ConfigSpace,
    /// The control word of MSI-X.
    pub(super) msix_control: usize,
    /// The window through which the BAR is reached without memory accesses
    /// (§4.1.4.9): the capability itself.
    pub(super) window: usize,
}

impl Layout {
    pub(super) fn new(kind: DeviceKind, vectors: u16) -> Self {
        let number = u16::try_from(kind.0).unwrap_or(0);
        let mut space = ConfigSpace::new(VENDOR, FIRST_DEVICE + number, class(kind), 1);
        space.set_subsystem(VENDOR, FIRST_DEVICE + number);
        space.add_memory_bar(0, r::BAR_SIZE);
        structure(&mut space, COMMON, r::COMMON, &[], 0);
        structure(&mut space, ISR, r::ISR, &[], 0);
        structure(&mut space, DEVICE, r::DEVICE, &[], 0);
        let step = u32::try_from(r::NOTIFY_STEP).expect("4");
        structure(&mut space, NOTIFY, r::NOTIFY, &step.to_le_bytes(), 0);
        // BAR, offset, length and data are the driver's to write.
        let window = structure(&mut space, CONFIG_ACCESS, (0, 0), &[0; 4], 0xff);
        let msix_control = 2 + msix(&mut space, vectors);
        Self {
            space,
            msix_control,
            window,
        }
    }
}

/// Adds the capability of a structure; gives its offset. `open` is the mask of the
/// bytes from the BAR's number on.
fn structure(space: &mut ConfigSpace, kind: u8, place: (u64, u64), rest: &[u8], open: u8) -> usize {
    let length = u8::try_from(16 + rest.len()).expect("at most 20");
    let low = |value: u64| u32::try_from(value).expect("within the BAR").to_le_bytes();
    let mut content = vec![length, kind, 0, 0, 0, 0];
    content.extend(low(place.0));
    content.extend(low(place.1));
    content.extend(rest);
    let mut mask = vec![0, 0, open, 0, 0, 0];
    mask.resize(content.len(), open);
    space.add_capability(VENDOR_SPECIFIC, &content, &mask)
}

fn msix(space: &mut ConfigSpace, vectors: u16) -> usize {
    let low = |value: u64| u32::try_from(value).expect("within the BAR").to_le_bytes();
    let mut content = (vectors - 1).to_le_bytes().to_vec();
    content.extend(low(r::MSIX_TABLE.0));
    content.extend(low(r::MSIX_PENDING.0));
    space.add_capability(MSIX, &content, &[0, 0xc0])
}

/// Base class, subclass and interface of a kind of device.
fn class(kind: DeviceKind) -> [u8; 3] {
    match kind {
        DeviceKind::NET => [0x02, 0x00, 0],
        DeviceKind::BLOCK => [0x01, 0x80, 0],
        DeviceKind::CONSOLE => [0x07, 0x80, 0],
        DeviceKind::FS => [0x01, 0x80, 0],
        DeviceKind::VSOCK => [0x02, 0x80, 0],
        _ => [0xff, 0, 0],
    }
}
