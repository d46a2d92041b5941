use super::*;
use crate::config::{KernelCommandLine, MemorySize};

fn size(vcpus: u32, max_vcpus: u32) -> MachineSize {
    let memory = MemorySize::mib(64);
    MachineSize {
        vcpus,
        max_vcpus,
        memory,
        max_memory: memory,
    }
}

fn line(machine: Machine, acceleration: Acceleration, vcpus: u32, given: &str) -> String {
    let given: KernelCommandLine = given.split_whitespace().collect();
    let mut words = Words::new(&given);
    command_line(
        &mut words,
        machine,
        acceleration,
        &size(vcpus, vcpus),
        Some(2_600_000),
    );
    words.into_line()
}

#[test]
fn a_machine_that_does_not_grow_is_a_microvm_where_there_is_one() {
    let machine = |choice, max, has| machine(choice, size(1, max).grows(), has, Acceleration::Kvm);
    assert_eq!(machine(MachineChoice::Auto, 1, true), Machine::Microvm);
    assert_eq!(machine(MachineChoice::Auto, 2, true), Machine::Q35);
    assert_eq!(machine(MachineChoice::Auto, 1, false), Machine::Q35);
    assert_eq!(machine(MachineChoice::Full, 1, true), Machine::Q35);
}

#[test]
fn an_emulated_microvm_is_told_its_clock() {
    assert_eq!(
        line(Machine::Microvm, Acceleration::Emulation, 1, "quiet"),
        "console=ttyS0 acpi=off reboot=t mitigations=off no_timer_check noreplace-smp \
         tsc=reliable tsc_early_khz=2600000 nolapic_timer quiet"
    );
}

#[test]
fn several_processors_keep_their_own_timers() {
    let line = line(Machine::Microvm, Acceleration::Emulation, 2, "");
    assert!(!line.contains("nolapic_timer"), "{line}");
}

#[test]
fn under_kvm_the_kernel_knows_best() {
    assert_eq!(
        line(Machine::Q35, Acceleration::Kvm, 1, "quiet"),
        "console=ttyS0 quiet"
    );
}

#[test]
fn what_the_caller_says_stands() {
    let line = line(
        Machine::Microvm,
        Acceleration::Emulation,
        1,
        "console=hvc0 tsc=unstable",
    );
    assert!(
        !line.contains("ttyS0") && !line.contains("reliable"),
        "{line}"
    );
}
