//! The table of processors and interrupt lines for kernels without ACPI (Intel
//! MultiProcessor Specification 1.4).

use super::layout;

/// Versions of what is described.
const SPECIFICATION: u8 = 4;
const APIC_VERSION: u8 = 0x14;
/// Kinds of entries.
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;
/// Kinds of interrupts.
const VECTORED: u8 = 0;
const NON_MASKABLE: u8 = 1;
const EXTERNAL: u8 = 3;
/// All processors.
const EVERYONE: u8 = 0xff;
/// Family, model and features are read from the processor by every kernel.
const PROCESSOR_SIGNATURE: u32 = 0x600;
const PROCESSOR_FEATURES: u32 = 0x201;

/// The bytes of the table, to be put at [`layout::MP_TABLE`], for so many
/// processors.
pub(super) fn table(vcpus: u8) -> Vec<u8> {
    let io_apic_id = vcpus;
    let mut entries: Vec<Vec<u8>> = (0..vcpus).map(processor).collect();
    entries.push([&[BUS, 0][..], b"ISA   "].concat());
    let address = layout::IO_APIC.to_le_bytes();
    entries.push([&[IO_APIC, io_apic_id, APIC_VERSION, 1][..], &address].concat());
    for line in 0..u8::try_from(layout::IRQ_LINES).expect("a few lines") {
        entries.push(interrupt(IO_INTERRUPT, VECTORED, line, (io_apic_id, line)));
    }
    entries.push(interrupt(LOCAL_INTERRUPT, EXTERNAL, 0, (0, 0)));
    entries.push(interrupt(LOCAL_INTERRUPT, NON_MASKABLE, 0, (EVERYONE, 1)));
    let count = u16::try_from(entries.len()).expect("less than 300");
    let body = entries.concat();
    let mut table = pointer();
    table.extend(header(count, &body));
    table.extend(body);
    table
}

/// What a kernel looks for: it says that the table follows.
fn pointer() -> Vec<u8> {
    let at = u32::try_from(layout::MP_TABLE + 16).expect("it is low");
    let mut pointer = b"_MP_".to_vec();
    pointer.extend(at.to_le_bytes());
    pointer.extend([1, SPECIFICATION, 0, 0, 0, 0, 0, 0]);
    pointer[10] = checksum(&pointer);
    pointer
}

fn header(count: u16, body: &[u8]) -> Vec<u8> {
    const LENGTH: usize = 44;
    let length = u16::try_from(LENGTH + body.len()).expect("a few kilobytes");
    let mut header = b"PCMP".to_vec();
    header.extend(length.to_le_bytes());
    header.extend([SPECIFICATION, 0]);
    header.extend(b"KATA    KVM         ");
    header.extend([0; 6]); // no table of the maker's
    header.extend(count.to_le_bytes());
    header.extend(layout::LOCAL_APIC.to_le_bytes());
    header.extend([0; 4]);
    debug_assert_eq!(header.len(), LENGTH);
    header[7] = checksum(&[&header, body].concat());
    header
}

fn processor(id: u8) -> Vec<u8> {
    let (enabled, first) = (1, if id == 0 { 2 } else { 0 });
    let mut entry = vec![PROCESSOR, id, APIC_VERSION, enabled | first];
    entry.extend(PROCESSOR_SIGNATURE.to_le_bytes());
    entry.extend(PROCESSOR_FEATURES.to_le_bytes());
    entry.extend([0; 8]);
    entry
}

/// Line `line` of the ISA bus, as the bus's lines are: edges, active high.
fn interrupt(entry: u8, kind: u8, line: u8, to: (u8, u8)) -> Vec<u8> {
    vec![entry, kind, 0, 0, 0, line, to.0, to.1]
}

/// What makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn a_kernel_finds_what_it_checks() {
        for vcpus in [1, 4, 254] {
            let table = table(vcpus);
            assert_eq!(&table[..4], b"_MP_");
            assert_eq!(sum(&table[..16]), 0);
            assert_eq!(&table[16..20], b"PCMP");
            let length = usize::from(u16::from_le_bytes([table[20], table[21]]));
            assert_eq!(length, table.len() - 16);
            assert_eq!(sum(&table[16..]), 0);
            assert!(table.len() < 0x10000, "it ends below the first megabyte");
        }
    }

    #[test]
    fn every_entry_is_counted() {
        let table = table(2);
        let count = u16::from_le_bytes([table[16 + 34], table[16 + 35]]);
        let (mut at, mut seen) = (16 + 44, 0);
        while at < table.len() {
            at += if table[at] == PROCESSOR { 20 } else { 8 };
            seen += 1;
        }
        assert_eq!((at, seen), (table.len(), count));
    }
}
