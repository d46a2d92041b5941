//! A PCI bus under the host's own KVM: guests of our own look at configuration
//! space, mask and unmask interrupts, and move what is at an address.
#![cfg(all(feature = "kvm", target_arch = "x86_64"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "payload/bench.rs"]
mod bench;
mod payload;

use bench::Bench;
use kata_hypervisor::kvm::Transports;
use kata_hypervisor::{DiskConfig, Error, Hypervisor, VmExit};
use payload::pci::{Function, MSIX, MSIX_MASKED, MSIX_ON};
use payload::queue::{Device, Ring, WRITE};
use payload::{DATA, INTERRUPTS, Payload};

/// The bridge, and the first device.
const BRIDGE: Function = Function(0);
const FIRST: Function = Function(1);
const RING: Ring = Ring {
    queue: 0,
    page: DATA,
};
const BUFFER: u32 = DATA + 0x1000;
/// Bytes of configuration space.
const SPACE: usize = 256;

async fn bench() -> Option<Bench> {
    let mut bench = Bench::with(|kvm| kvm.transports(Transports::Pci)).await?;
    bench.devices.rng = true;
    Some(bench)
}

fn half(space: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(space[at..at + 2].try_into().unwrap())
}

fn word(space: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(space[at..at + 4].try_into().unwrap())
}

#[tokio::test]
async fn configuration_space_is_the_same_by_ports_and_in_memory() {
    let Some(bench) = bench().await else { return };
    let registers = (0..u32::try_from(SPACE).unwrap()).step_by(4);
    for function in [BRIDGE, FIRST] {
        let mut payload = Payload::default();
        for register in registers.clone() {
            payload = function.show(payload, register);
        }
        for register in registers.clone() {
            payload = function.show_in_window(payload, register);
        }
        let (said, exit) = bench.run(&payload.reset()).await;
        assert_eq!((said.len(), exit), (2 * SPACE, VmExit::Reset));
        assert_eq!(said[..SPACE], said[SPACE..]);
        let space = &said[..SPACE];
        let (vendor, device) = (half(space, 0), half(space, 2));
        if function.0 == 0 {
            assert_eq!((vendor, half(space, 0x0a)), (0x1b36, 0x0600));
            continue;
        }
        assert_eq!((vendor, device), (0x1af4, 0x1040 + 4));
        assert_eq!(u64::from(word(space, 0x10)), u64::from(FIRST.bar()) | 4);
        assert_eq!(word(space, 0x3c), 0, "no line, and no pin");
        let mut capabilities = Vec::new();
        let mut at = usize::from(space[0x34]);
        while at != 0 {
            capabilities.push((space[at], u32::try_from(at).unwrap()));
            at = usize::from(space[at + 1]);
        }
        let vendors = capabilities.iter().filter(|(kind, _)| *kind == 9);
        assert_eq!(vendors.count(), 5, "{capabilities:?}");
        assert!(capabilities.contains(&(0x11, MSIX)), "{capabilities:?}");
        let vectors = word(space, MSIX as usize) >> 16 & 0x7ff;
        assert_eq!(vectors, 1, "a queue, and changes: one more than this");
    }
}

#[tokio::test]
async fn what_is_not_on_the_bus_reads_as_ones_and_a_bar_tells_its_size() {
    let Some(bench) = bench().await else { return };
    let ones = u32::MAX;
    let payload = Function(2).show(Payload::default(), 0);
    let payload = Function(31).show_in_window(payload, 0);
    let payload = FIRST.set(payload, 0x10, ones);
    let payload = FIRST.show(payload, 0x10);
    // It does not answer before it may, and then where it was put.
    let payload = FIRST.set(payload, 0x10, 0xc800_0000);
    let payload = payload.show_word(0xc800_0000 + 0x2000);
    let payload = FIRST.set(payload, 4, 2);
    let payload = payload.show_word(0xc800_0014).show_word(FIRST.bar() + 0x14);
    let (said, _) = bench.run(&payload.reset()).await;
    assert_eq!(word(&said, 0), ones);
    assert_eq!(word(&said, 4), ones);
    assert_eq!(word(&said, 8), 0xffff_0004);
    assert_eq!(word(&said, 12), ones, "nobody answers yet");
    // The status register and its neighbours are no word, which reads as zeroes.
    assert_eq!(word(&said, 16), 0, "it answers in its new place");
    assert_eq!(word(&said, 20), ones, "and not in its old one");
}

/// Gets ready to draw 16 bytes as often as there are chains, of which none is
/// offered yet: a device looks at its rings when it starts.
fn drawing(chains: usize) -> Payload {
    let payload = Payload::default().data(BUFFER, [0; 64]);
    let all = [(BUFFER, 16, WRITE)];
    let chains = vec![&all[..]; chains];
    let payload = RING.with_some_of(payload, &chains, 0);
    let device = Device::Pci(FIRST);
    device.start(device.interrupts(payload), &[RING])
}

#[tokio::test]
async fn a_masked_interrupt_waits_and_comes_when_it_may() {
    let Some(bench) = bench().await else { return };
    let device = Device::Pci(FIRST);
    let control = FIRST.bar() + 0x8000 + 16 + 12;
    let pending = FIRST.bar() + 0xc000;
    let payload = RING.offer(drawing(3).write(control, 1), 1);
    let payload = device
        .kick(payload, RING)
        .wait_for(RING.used_index(), 1)
        .wait_for_word(pending, 2)
        .show(INTERRUPTS, 1)
        .write(control, 0)
        .wait_for(INTERRUPTS, 1)
        .show_word(pending);
    // The same by the switch for all vectors.
    let payload = RING.offer(FIRST.set(payload, MSIX, MSIX_ON | MSIX_MASKED), 2);
    let payload = device
        .kick(payload, RING)
        .wait_for(RING.used_index(), 2)
        .wait_for_word(pending, 2)
        .show(INTERRUPTS, 1);
    let payload = FIRST.set(payload, MSIX, MSIX_ON).wait_for(INTERRUPTS, 2);
    let payload = payload.show(INTERRUPTS, 1).reset();
    let (said, exit) = bench.run(&payload).await;
    assert_eq!(exit, VmExit::Reset);
    assert_eq!(said, [0, 0, 0, 0, 0, 1, 2]);
}

#[tokio::test]
async fn doorbells_follow_a_function_that_is_moved() {
    let Some(bench) = bench().await else { return };
    let elsewhere = 0xc123_0000;
    let device = Device::Pci(FIRST);
    let payload = device
        .kick(RING.offer(drawing(2), 1), RING)
        .wait_for(INTERRUPTS, 1)
        .wait_for(RING.used_index(), 1);
    let payload = RING.offer(FIRST.set(payload, 0x10, elsewhere), 2);
    // A kick at its old place is nobody's.
    let payload = device.kick(payload, RING).show_word(FIRST.bar());
    let payload = payload
        .show(RING.used_index(), 1)
        .write16(elsewhere + 0x3000, 0)
        .wait_for(INTERRUPTS, 2)
        .wait_for(RING.used_index(), 2)
        .reset();
    let (said, exit) = bench.run(&payload).await;
    assert_eq!(
        (said, exit),
        (vec![0xff, 0xff, 0xff, 0xff, 1], VmExit::Reset)
    );
}

#[tokio::test]
async fn a_guest_that_puts_a_function_on_its_memory_or_nowhere_harms_itself_alone() {
    let Some(bench) = bench().await else { return };
    let mut payload = drawing(1);
    for place in [0, DATA, 0xfee0_0000, 0xfec0_0000, 0xe000_0000, 0xffff_0000] {
        payload = FIRST.set(payload, 0x10, place);
    }
    payload = FIRST.set(payload, 0x14, u32::MAX);
    payload = FIRST.set(payload, MSIX, 0);
    payload = FIRST.set(payload, 4, 0);
    payload = FIRST.set(payload, 0x14, 0);
    payload = FIRST.set(payload, 0x10, FIRST.bar());
    payload = FIRST.set(payload, MSIX, MSIX_ON);
    payload = FIRST.set(payload, 4, 6);
    let payload = RING.offer(payload, 1);
    let payload = Device::Pci(FIRST)
        .kick(payload, RING)
        .wait_for(INTERRUPTS, 1)
        .wait_for(RING.used_index(), 1)
        .reset();
    let (_, exit) = bench.run(&payload).await;
    assert_eq!(exit, VmExit::Reset);
}

#[tokio::test]
async fn more_devices_than_lines_are_on_a_bus_unless_that_was_refused() {
    let Some(mut bench) = Bench::new().await else {
        return;
    };
    for number in 0..19u32 {
        let path = bench.path().join(format!("disk{number}"));
        std::fs::write(&path, vec![b'0'; 512]).unwrap();
        bench.devices.disks.push(DiskConfig {
            id: format!("d{number}"),
            path,
            read_only: true,
        });
    }
    let last = Function(19);
    let payload = last.show(Payload::default(), 0).reset();
    let (said, _) = bench.run(&payload).await;
    assert_eq!(word(&said, 0), 0x1042_1af4);
    let config = bench.config(&payload);
    let kvm = std::mem::take(&mut bench.kvm).transports(Transports::Mmio);
    let error = kvm.create(config).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidConfig {
                field: "devices",
                ..
            }
        ),
        "{error}"
    );
}
