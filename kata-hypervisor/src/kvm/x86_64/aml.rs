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
    fn resources_end() {
        let bytes = resources(&[memory(0xd000_0000, 0x1000), interrupt(5)]);
        assert_eq!(bytes[0], 0x11);
        assert_eq!(bytes[bytes.len() - 2..], [0x79, 0]);
        assert_eq!(ports(0x3f8, 8).len(), 8);
    }
}
