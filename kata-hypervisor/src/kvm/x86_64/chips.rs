//! The chips that KVM emulates: interrupt controllers and the interval timer.

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_PIT_SPEAKER_DUMMY, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1 as Target,
    kvm_irq_routing_irqchip, kvm_pit_config,
};
use kvm_ioctls::{VcpuFd, VmFd};

use super::layout::{self, PIC_LINES};
use crate::error::{Error, Result};

/// Entries of the local vector table, and what is put there.
const LINT0: usize = 0x350;
const LINT1: usize = 0x360;
/// Delivery modes, in bits 8 to 10.
const EXTERNAL: u32 = 7 << 8;
const NON_MASKABLE: u32 = 4 << 8;

/// Makes the interrupt controllers, before any processor is.
pub(super) fn make(vm: &VmFd) -> Result<()> {
    let failed = |what: &'static str| {
        move |error: kvm_ioctls::Error| Error::Host {
            operation: format!("make the machine's {what}"),
            source: error.into(),
        }
    };
    vm.set_identity_map_address(layout::IDENTITY_MAP)
        .map_err(failed("identity map"))?;
    vm.set_tss_address(layout::TASK_STATE)
        .map_err(failed("task state segment"))?;
    vm.create_irq_chip()
        .map_err(failed("interrupt controllers"))?;
    let config = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..kvm_pit_config::default()
    };
    vm.create_pit2(config).map_err(failed("interval timer"))
}

/// The first interrupt source of KVM that is no line: messages begin there.
pub(in crate::kvm) const FIRST_MESSAGE: u32 = layout::IRQ_LINES;

/// The routes of the chips' lines, as KVM sets them when it makes the chips: the
/// old PC's controllers and the I/O APIC share the first sixteen.
pub(in crate::kvm) fn line_routes() -> Vec<kvm_irq_routing_entry> {
    let to_chip = |gsi, chip, pin| {
        let irqchip = kvm_irq_routing_irqchip { irqchip: chip, pin };
        kvm_irq_routing_entry {
            gsi,
            type_: KVM_IRQ_ROUTING_IRQCHIP,
            u: Target { irqchip },
            ..kvm_irq_routing_entry::default()
        }
    };
    let first = (0..PIC_LINES).map(|line| to_chip(line, KVM_IRQCHIP_PIC_MASTER, line));
    let second = (0..PIC_LINES).map(|line| to_chip(PIC_LINES + line, KVM_IRQCHIP_PIC_SLAVE, line));
    let both = first.chain(second);
    let new = (0..layout::IRQ_LINES).map(|line| to_chip(line, KVM_IRQCHIP_IOAPIC, line));
    both.chain(new).collect()
}

/// Connects a processor's local controller as the MP table says.
pub(super) fn connect(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut local = vcpu.get_lapic()?;
    set_mode(&mut local.regs, LINT0, EXTERNAL);
    set_mode(&mut local.regs, LINT1, NON_MASKABLE);
    vcpu.set_lapic(&local)
}

fn set_mode(registers: &mut [std::os::raw::c_char], at: usize, mode: u32) {
    for (register, byte) in registers[at..at + 4].iter_mut().zip(mode.to_le_bytes()) {
        *register = byte.cast_signed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_written_as_the_chip_reads_it() {
        let mut registers = [0; 1024];
        set_mode(&mut registers, LINT0, EXTERNAL);
        assert_eq!(registers[LINT0..LINT0 + 4], [0, 7, 0, 0]);
    }
}
