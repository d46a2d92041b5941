//! ACPI tables for kernels that find devices no other way (ACPI 6.5 §5.2).
//!
//! Hardware-reduced: no event registers, no interrupt of ACPI's own. What there
//! is: processors, the I/O APIC, a register that switches off, one that resets,
//! the console, a panic notifier, and the virtio devices: each of them by itself,
//! or the PCI bus on which they are found.

use kata_devices::pci::ConfigPorts;

use super::aml;
use super::layout;
use crate::kvm::devices::{Place, Topology};
use crate::kvm::legacy::{RESET_OFFSET, RESET_VALUE, SLEEP_TYPE_OFF};

/// Flags of the fixed description: caches work, no fixed buttons, the reset
/// register is there, hardware-reduced.
const FLAGS: u32 = 1 | 1 << 4 | 1 << 5 | 1 << 10 | 1 << 20;
/// What of an old PC there is not: no VGA; and no keyboard controller to probe.
const BOOT_ARCHITECTURE: u16 = 1 << 2;
/// Alignment of tables.
const ALIGNMENT: usize = 16;
/// Length of the root pointer.
const ROOT_LENGTH: usize = 36;

/// All tables, to be put at [`layout::ACPI_TABLES`]; the root pointer is first.
pub(super) fn tables(vcpus: u8, topology: &Topology) -> Vec<u8> {
    let mut tables = Tables::default();
    let dsdt = tables.add(definition_block(topology));
    let mut listed = vec![
        tables.add(fixed_description(dsdt)),
        tables.add(interrupt_controllers(vcpus)),
    ];
    if *topology == Topology::Pci {
        listed.push(tables.add(configuration_window()));
    }
    let entries: Vec<u8> = listed.into_iter().flat_map(u64::to_le_bytes).collect();
    let root = tables.add(table(*b"XSDT", 1, &entries));
    tables.finish(root)
}

/// Tables one after the other, with room for the root pointer before them.
#[derive(Default)]
struct Tables(Vec<u8>);

impl Tables {
    /// Adds a table and says where it will be.
    fn add(&mut self, table: Vec<u8>) -> u64 {
        let start = self.0.len().next_multiple_of(ALIGNMENT);
        self.0.resize(start, 0);
        self.0.extend(table);
        let before = ROOT_LENGTH.next_multiple_of(ALIGNMENT);
        layout::ACPI_TABLES + u64::try_from(before + start).expect("tables are small")
    }

    fn finish(self, root: u64) -> Vec<u8> {
        let mut bytes = root_pointer(root);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(self.0);
        bytes
    }
}

fn root_pointer(root: u64) -> Vec<u8> {
    let mut pointer = b"RSD PTR \0KATA  \x02".to_vec();
    pointer.extend([0; 4]); // no table of 32-bit addresses
    pointer.extend(36u32.to_le_bytes());
    pointer.extend(root.to_le_bytes());
    pointer.extend([0; 4]);
    pointer[8] = checksum(&pointer[..20]);
    pointer[32] = checksum(&pointer);
    pointer
}

/// A table: a header, whose sum is right, and its content.
fn table(signature: [u8; 4], revision: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(36 + content.len()).expect("tables are small");
    let mut table = signature.to_vec();
    table.extend(length.to_le_bytes());
    table.extend([revision, 0]);
    table.extend(b"KATA  KATAKVM ");
    table.extend(1u32.to_le_bytes());
    table.extend(b"KATA");
    table.extend(1u32.to_le_bytes());
    table.extend(content);
    table[9] = checksum(&table);
    table
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

/// Offsets of fields, from the table's first byte (§5.2.9).
mod fadt {
    pub(super) const LENGTH: usize = 276;
    pub(super) const BOOT_ARCHITECTURE: usize = 109;
    pub(super) const FLAGS: usize = 112;
    pub(super) const RESET_REGISTER: usize = 116;
    pub(super) const RESET_VALUE: usize = 128;
    pub(super) const MINOR_REVISION: usize = 131;
    pub(super) const DSDT: usize = 140;
    pub(super) const SLEEP_CONTROL: usize = 244;
    pub(super) const SLEEP_STATUS: usize = 256;
}

fn fixed_description(dsdt: u64) -> Vec<u8> {
    let mut content = vec![0; fadt::LENGTH - 36];
    let mut put = |at: usize, bytes: &[u8]| {
        content[at - 36..at - 36 + bytes.len()].copy_from_slice(bytes);
    };
    let power = layout::POWER_PORTS.start;
    put(fadt::BOOT_ARCHITECTURE, &BOOT_ARCHITECTURE.to_le_bytes());
    put(fadt::FLAGS, &FLAGS.to_le_bytes());
    put(fadt::RESET_REGISTER, &register(power + RESET_OFFSET));
    put(fadt::RESET_VALUE, &[RESET_VALUE]);
    put(fadt::MINOR_REVISION, &[5]);
    put(fadt::DSDT, &dsdt.to_le_bytes());
    put(fadt::SLEEP_CONTROL, &register(power));
    put(fadt::SLEEP_STATUS, &register(power + 1));
    table(*b"FACP", 6, &content)
}

/// A register of a byte, behind a port (§5.2.3.2).
fn register(port: u16) -> Vec<u8> {
    let (io_space, bits, byte_access) = (1, 8, 1);
    let mut address = vec![io_space, bits, 0, byte_access];
    address.extend(u64::from(port).to_le_bytes());
    address
}

fn interrupt_controllers(vcpus: u8) -> Vec<u8> {
    let mut content = layout::LOCAL_APIC.to_le_bytes().to_vec();
    content.extend(0u32.to_le_bytes());
    for id in 0..vcpus {
        content.extend([0, 8, id, id, 1, 0, 0, 0]); // a processor, enabled
    }
    content.extend([1, 12, 0, 0]); // the I/O APIC, whose lines begin at 0
    content.extend(layout::IO_APIC.to_le_bytes());
    content.extend(0u32.to_le_bytes());
    table(*b"APIC", 5, &content)
}

/// Where the configuration space of bus 0 is (PCI Firmware 3.3 §4.1.2).
fn configuration_window() -> Vec<u8> {
    let mut content = vec![0; 8];
    content.extend(layout::PCI_CONFIG.start.to_le_bytes());
    // Segment, first and last bus.
    content.extend([0; 8]);
    table(*b"MCFG", 1, &content)
}

fn definition_block(topology: &Topology) -> Vec<u8> {
    let mut system: Vec<u8> = match topology {
        Topology::Mmio(places) => places.iter().zip(0..).flat_map(virtio).collect(),
        Topology::Pci => [host_bridge(), window_owner()].concat(),
    };
    system.extend(serial());
    system.extend(panic_notifier());
    let off = vec![aml::integer(SLEEP_TYPE_OFF.into()), aml::integer(0)];
    let content = [
        aml::scope("\\_SB_", &system),
        aml::name("_S5_", &aml::list(&off)),
    ];
    table(*b"DSDT", 2, &content.concat())
}

fn virtio((place, number): (&Place, u32)) -> Vec<u8> {
    let taken = [
        aml::memory(
            u32::try_from(place.address).expect("registers are below 4 GiB"),
            u32::try_from(Place::SIZE).expect("a page"),
        ),
        aml::interrupt(place.line),
    ];
    let content = [
        aml::name("_HID", &aml::string("LNRO0005")),
        aml::name("_UID", &aml::integer(number)),
        aml::name("_CCA", &aml::integer(1)),
        aml::name("_CRS", &aml::resources(&taken)),
    ];
    aml::device(&format!("V{number:03}"), &content.concat())
}

/// The bus, what of the address space is its own, and that it has no lines.
fn host_bridge() -> Vec<u8> {
    let memory = layout::PCI_MEMORY;
    let end = memory.end - 1;
    let low = |address: u64| u32::try_from(address).expect("it is below 4 GiB");
    let taken = [
        aml::buses(0, 0),
        aml::ports(ConfigPorts::BASE, 8),
        aml::memory_window(low(memory.start), low(end)),
    ];
    let content = [
        aml::name("_HID", &aml::identifier(*b"PNP", 0x0a08)),
        aml::name("_CID", &aml::identifier(*b"PNP", 0x0a03)),
        aml::name("_UID", &aml::integer(0)),
        aml::name("_SEG", &aml::integer(0)),
        aml::name("_BBN", &aml::integer(0)),
        aml::name("_CCA", &aml::integer(1)),
        aml::name("_CRS", &aml::resources(&taken)),
    ];
    aml::device("PCI0", &content.concat())
}

/// A part of the board: it has the window of configuration space.
fn window_owner() -> Vec<u8> {
    let window = layout::PCI_CONFIG;
    let low = |address: u64| u32::try_from(address).expect("it is below 4 GiB");
    let taken = [aml::memory(
        low(window.start),
        low(window.end - window.start),
    )];
    let content = [
        aml::name("_HID", &aml::identifier(*b"PNP", 0x0c02)),
        aml::name("_CRS", &aml::resources(&taken)),
    ];
    aml::device("MBRD", &content.concat())
}

fn serial() -> Vec<u8> {
    let ports = layout::SERIAL_PORTS;
    let taken = [
        aml::ports(ports.start, 8),
        aml::interrupt(layout::SERIAL_IRQ),
    ];
    let content = [
        aml::name("_HID", &aml::string("PNP0501")),
        aml::name("_UID", &aml::integer(0)),
        aml::name("_CRS", &aml::resources(&taken)),
    ];
    aml::device("COM1", &content.concat())
}

fn panic_notifier() -> Vec<u8> {
    let content = [
        aml::name("_HID", &aml::string("QEMU0001")),
        aml::name(
            "_CRS",
            &aml::resources(&[aml::ports(layout::PANIC_PORTS.start, 1)]),
        ),
    ];
    aml::device("PEVT", &content.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte))
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// The table at a guest address, checked.
    fn at(all: &[u8], address: u64) -> &[u8] {
        let start = usize::try_from(address - layout::ACPI_TABLES).unwrap();
        let length = u32::from_le_bytes(all[start + 4..start + 8].try_into().unwrap());
        let table = &all[start..start + length as usize];
        assert_eq!(sum(table), 0);
        table
    }

    #[test]
    fn each_table_leads_to_the_next() {
        let place = Place {
            address: 0xd000_0000,
            line: 5,
        };
        let mmio = (
            Topology::Mmio(vec![place]),
            &[b"FACP", b"APIC"][..],
            &b"LNRO0005"[..],
        );
        let pci = (
            Topology::Pci,
            &[b"FACP", b"APIC", b"MCFG"][..],
            &b"\x41\xd0\x0a\x08"[..],
        );
        for (topology, signatures, device) in [mmio, pci] {
            let all = tables(2, &topology);
            assert_eq!(&all[..8], b"RSD PTR ");
            assert_eq!((sum(&all[..20]), sum(&all[..36])), (0, 0));
            let root = at(&all, u64_at(&all, 24));
            assert_eq!(&root[..4], b"XSDT");
            assert_eq!(root.len(), 36 + 8 * signatures.len());
            for (index, signature) in signatures.iter().enumerate() {
                let table = at(&all, u64_at(root, 36 + 8 * index));
                assert_eq!(&table[..4], *signature);
            }
            let fixed = at(&all, u64_at(root, 36));
            assert_eq!(fixed.len(), fadt::LENGTH);
            let block = at(&all, u64_at(fixed, fadt::DSDT));
            assert_eq!(&block[..4], b"DSDT");
            let names = |name: &[u8]| block.windows(name.len()).any(|window| window == name);
            assert!(names(device) && names(b"_S5_") && names(b"QEMU0001"));
            assert!(layout::ACPI_TABLES + all.len() as u64 <= layout::MP_TABLE);
        }
    }

    #[test]
    fn the_window_is_that_of_one_bus() {
        let window = configuration_window();
        assert_eq!(window.len(), 60);
        assert_eq!(u64_at(&window, 44), layout::PCI_CONFIG.start);
        let one_bus = kata_devices::pci::SLOTS as u64 * 8 * 4096;
        assert_eq!(layout::PCI_CONFIG.end - layout::PCI_CONFIG.start, one_bus);
    }
}
