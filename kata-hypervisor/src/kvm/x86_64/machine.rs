//! The parts of a PC, put together.

use std::sync::Arc;

use kata_devices::pci::{ConfigPorts as PortsOfPci, PciBus};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use super::entry::Entry;
use super::{chips, cpuid, layout, registers};
use crate::config::MemorySize;
use crate::console::Tail;
use crate::error::{Error, Result};
use crate::kvm::bus::Bus;
use crate::kvm::devices::{ConfigPorts, ConfigWindow, Irq, Place};
use crate::kvm::legacy::{I8042, PanicNotifier, PowerManagement, Rtc, Uart};
use crate::kvm::settings::Settings;

/// The most processors: their numbers have eight bits, of which one value means
/// all, and one is the I/O APIC's.
pub(in crate::kvm) const MOST_VCPUS: u32 = 254;
/// The most virtio-mmio devices: each has an interrupt line of its own.
pub(in crate::kvm) const MOST_MMIO_DEVICES: usize = layout::VIRTIO_IRQS.len();

/// Makes the chips that KVM emulates. Before the processors.
pub(in crate::kvm) fn make_chips(vm: &VmFd) -> Result<()> {
    chips::make(vm)
}

/// Where memory of this size is.
pub(in crate::kvm) fn memory_ranges(size: MemorySize) -> Vec<(vm_memory::GuestAddress, usize)> {
    layout::memory(size)
}

/// Where so many virtio-mmio devices are.
pub(in crate::kvm) fn places(count: usize) -> Vec<Place> {
    let addresses = (layout::VIRTIO_MMIO..).step_by(0x1000);
    let places = layout::VIRTIO_IRQS.into_iter().zip(addresses);
    places
        .map(|(line, address)| Place { address, line })
        .take(count)
        .collect()
}

/// Puts a PCI bus behind its ports, its window and the addresses of its functions.
pub(in crate::kvm) fn add_pci(pci: &Arc<PciBus>, bus: &mut Bus) {
    let first = PortsOfPci::BASE;
    let ports = first..first + PortsOfPci::LEN;
    bus.add_port(ports, ConfigPorts(Arc::clone(pci)));
    let window = Arc::new(ConfigWindow(Arc::clone(pci)));
    bus.add_mmio(layout::PCI_CONFIG, window);
    bus.set_pci(Arc::clone(pci));
}

/// Puts the devices of an old PC on the bus.
pub(in crate::kvm) fn add_legacy(vm: &VmFd, console: &Arc<Tail>, bus: &mut Bus) -> Result<()> {
    let line = Irq::new(vm, layout::SERIAL_IRQ)?;
    bus.add_port(layout::SERIAL_PORTS, Uart::new(line, Arc::clone(console)));
    bus.add_port(layout::KEYBOARD_PORTS, I8042);
    bus.add_port(layout::CLOCK_PORTS, Rtc::default());
    bus.add_port(layout::POWER_PORTS, PowerManagement);
    bus.add_port(layout::PANIC_PORTS, PanicNotifier);
    Ok(())
}

/// Makes the processors. The first begins at `entry`; the others wait for it to
/// start them.
pub(in crate::kvm) fn make_vcpus(
    kvm: &Kvm,
    vm: &VmFd,
    count: u32,
    settings: &Settings,
    entry: &Entry,
) -> Result<Vec<VcpuFd>> {
    let failed = |error: kvm_ioctls::Error| Error::Host {
        operation: "make the machine's processors".to_owned(),
        source: error.into(),
    };
    let template = cpuid::Template::new(kvm, settings.cpu_model, settings.nesting, count);
    let template = template.map_err(failed)?;
    let make = |index: u32| -> Result<VcpuFd, kvm_ioctls::Error> {
        let vcpu = vm.create_vcpu(index.into())?;
        vcpu.set_cpuid2(&template.of(index))?;
        registers::set_common(&vcpu)?;
        chips::connect(&vcpu)?;
        if index == 0 {
            registers::set_entry(&vcpu, entry)?;
        }
        Ok(vcpu)
    };
    (0..count)
        .map(|index| make(index).map_err(failed))
        .collect()
}
