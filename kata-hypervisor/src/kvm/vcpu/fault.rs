//! What KVM says when it cannot go on.
#![expect(unsafe_code, reason = "the reason is in a union")]

use kvm_bindings::{KVM_INTERNAL_ERROR_EMULATION, kvm_run};
use kvm_ioctls::VcpuFd;

/// The instruction's bytes are there.
const HAS_BYTES: u64 = 1;
/// Most bytes that an instruction has.
const LONGEST: usize = 15;

/// Describes an internal error, of which `vcpu` has just told.
pub(super) fn describe(vcpu: &mut VcpuFd) -> String {
    let at = crate::kvm::arch::program_counter(vcpu);
    let at = at.map_or_else(String::new, |at| format!(" at {at:#x}"));
    format!("KVM {}{at}", explain(vcpu.get_kvm_run()))
}

fn explain(run: &kvm_run) -> String {
    // SAFETY: every bit pattern is one of this struct of numbers, which the
    // kernel filled, for the exit was an internal error.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    if internal.suberror != KVM_INTERNAL_ERROR_EMULATION {
        return format!("failed with internal error {}", internal.suberror);
    }
    // SAFETY: likewise, and this suberror has this form.
    let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
    // Four words: flags, size and bytes of the instruction.
    if failure.ndata < 3 || failure.flags & HAS_BYTES == 0 {
        return "cannot emulate an instruction".to_owned();
    }
    // SAFETY: likewise.
    let instruction = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
    let length = usize::from(instruction.insn_size).min(LONGEST);
    let bytes: Vec<String> = instruction.insn_bytes[..length]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("cannot emulate the instruction {}", bytes.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::KVM_INTERNAL_ERROR_DELIVERY_EV;

    #[test]
    fn the_bytes_of_the_instruction_are_told() {
        let mut run = kvm_run::default();
        run.__bindgen_anon_1.emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
        assert_eq!(explain(&run), "cannot emulate an instruction");
        // SAFETY: any bit pattern is one of this struct.
        let failure = unsafe { &mut run.__bindgen_anon_1.emulation_failure };
        failure.ndata = 4;
        failure.flags = HAS_BYTES;
        // SAFETY: likewise.
        let instruction = unsafe { &mut failure.__bindgen_anon_1.__bindgen_anon_1 };
        instruction.insn_size = 2;
        instruction.insn_bytes[..3].copy_from_slice(&[0x0f, 0xc7, 0xff]);
        assert_eq!(explain(&run), "cannot emulate the instruction 0f c7");
    }

    #[test]
    fn another_error_is_told_by_its_number() {
        let mut run = kvm_run::default();
        run.__bindgen_anon_1.internal.suberror = KVM_INTERNAL_ERROR_DELIVERY_EV;
        assert_eq!(explain(&run), "failed with internal error 3");
    }
}
