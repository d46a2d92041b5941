//! As much of ACPI's machine language as it takes to name devices (ACPI 6.5
//! §20.2).

/// `\_SB` and everything in it.
pub(super) fn scope(name: &str, content: &[u8]) -> Vec<u8> {
    package(&[0x10], &[name.as_bytes(), content].concat())
}

/// A device, with a name of four letters.
pub(super) fn device(name: &str, content: &[u8]) -> Vec<u8> {
    package(&[0x5b, 0x82], &[name.as_bytes(), content].concat())
}

/// A name for a value.
pub(super) fn name(name: &str, value: &[u8]) -> Vec<u8> {
    [&[0x08], name.as_bytes(), value].concat()
}

/// A number.
pub(super) fn integer(value: u32) -> Vec<u8> {
    [&[0x0c][..], &value.to_le_bytes()].concat()
}

/// A text.
pub(super) fn string(text: &str) -> Vec<u8> {
    [&[0x0d], text.as_bytes(), &[0]].concat()
}

/// The name of a kind of device as a compressed number (ACPI 6.5 §19.3.4): three
/// capital letters of five bits each, and four hexadecimal digits.
pub(super) fn identifier(vendor: [u8; 3], number: u16) -> Vec<u8> {
    let letter = |at: usize| u16::from(vendor[at] - b'@');
    let letters = letter(0) << 10 | letter(1) << 5 | letter(2);
    let bytes = [letters.to_be_bytes(), number.to_be_bytes()].concat();
    [&[0x0c], &bytes[..]].concat()
}

/// Several values.
pub(super) fn list(values: &[Vec<u8>]) -> Vec<u8> {
    let count = u8::try_from(values.len()).expect("a few values");
    package(&[0x12], &[&[count][..], &values.concat()].concat())
}

/// What a device takes of the machine.
pub(super) fn resources(descriptors: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = descriptors.concat();
    bytes.extend([0x79, 0]); // the end; a sum of zero is not checked
    let size = integer(u32::try_from(bytes.len()).expect("a few bytes"));
    package(&[0x11], &[size, bytes].concat())
}

/// Addresses of registers.
pub(super) fn memory(start: u32, length: u32) -> Vec<u8> {
    let (writable, header) = (1, [0x86, 9, 0]);
    [
        &header[..],
        &[writable],
        &start.to_le_bytes(),
        &length.to_le_bytes(),
    ]
    .concat()
}

/// Buses behind a bridge, the first and the last.
pub(super) fn buses(first: u8, last: u8) -> Vec<u8> {
    let (kind, count) = (2, u16::from(last - first) + 1);
    let numbers = [0, first.into(), last.into(), 0, count];
    window(
        0x88,
        [kind, FIXED, 0],
        &numbers.map(u16::to_le_bytes).concat(),
    )
}

/// Addresses that devices behind a bridge may have, the first and the last.
pub(super) fn memory_window(first: u32, last: u32) -> Vec<u8> {
    let (kind, writable) = (0, 1);
    let numbers = [0, first, last, 0, last - first + 1];
    let numbers = numbers.map(u32::to_le_bytes).concat();
    window(0x87, [kind, FIXED, writable], &numbers)
}

/// Both ends of a window stay where they are.
const FIXED: u8 = 1 << 2 | 1 << 3;

/// An address space descriptor (ACPI 6.5 §6.4.3.5). Its numbers: granularity,
/// first, last, translation, count.
fn window(tag: u8, head: [u8; 3], numbers: &[u8]) -> Vec<u8> {
    let length = u16::try_from(head.len() + numbers.len()).expect("a few bytes");
    [&[tag], &length.to_le_bytes()[..], &head, numbers].concat()
}

/// Ports.
pub(super) fn ports(start: u16, count: u8) -> Vec<u8> {
    let (decodes_16_bits, start) = (1, start.to_le_bytes());
    [&[0x47, decodes_16_bits][..], &start, &start, &[1, count]].concat()
}

/// An interrupt line of its own, by edges that rise.
pub(super) fn interrupt(line: u32) -> Vec<u8> {
    let consumer_edge = 3;
    [&[0x89, 6, 0, consumer_edge, 1][..], &line.to_le_bytes()].concat()
}

/// Something of a length that is told first (§20.2.4). The length counts itself.
fn package(head: &[u8], content: &[u8]) -> Vec<u8> {
    let length = if content.len() + 1 < 1 << 6 {
        vec![u8::try_from(content.len() + 1).expect("checked")]
    } else {
        let total = content.len() + 3;
        assert!(total < 1 << 20, "tables of devices are small");
        let byte = |shift: u32| u8::try_from(total >> shift & 0xff).expect("masked");
        vec![2 << 6 | byte(0) & 0xf, byte(4), byte(12)]
    };
    [head, &length, content].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_themselves() {
        assert_eq!(package(&[0x10], b"ab"), [0x10, 3, b'a', b'b']);
        let long = package(&[0x10], &[7; 300]);
        // 303: low four bits in the first byte, the others in the next two.
        assert_eq!(long[..4], [0x10, 0x80 | 0xf, 0x12, 0]);
        assert_eq!(long.len(), 1 + 303);
    }

    #[test]
    fn kinds_and_windows_are_as_compilers_write_them() {
        // EisaId("PNP0A08"), as iasl gives it.
        assert_eq!(identifier(*b"PNP", 0x0a08), [0x0c, 0x41, 0xd0, 0x0a, 0x08]);
        let buses = buses(0, 0);
        assert_eq!(buses.len(), 3 + 13);
        assert_eq!(buses[..6], [0x88, 13, 0, 2, 0x0c, 0]);
        assert_eq!(buses[14..], [1, 0]);
        let window = memory_window(0xc000_0000, 0xcfff_ffff);
        assert_eq!(window[..6], [0x87, 23, 0, 0, 0x0c, 1]);
        assert_eq!(window[22..], 0x1000_0000u32.to_le_bytes());
    }

    #[test]
    fn resources_end() {
        let bytes = resources(&[memory(0xd000_0000, 0x1000), interrupt(5)]);
        assert_eq!(bytes[0], 0x11);
        assert_eq!(bytes[bytes.len() - 2..], [0x79, 0]);
        assert_eq!(ports(0x3f8, 8).len(), 8);
    }
}
