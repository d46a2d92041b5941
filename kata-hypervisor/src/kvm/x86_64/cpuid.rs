//! What the processor says of itself.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;

use crate::kvm::settings::{CpuModel, Nesting};

/// Leaf 1, ECX.
const VMX: u32 = 1 << 5;
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 0x8000_0001, ECX.
const SVM: u32 = 1 << 2;
/// What SVM can do, and the nested state of it.
const SVM_LEAF: u32 = 0x8000_000a;

/// Leaf 1, ECX of x86-64-v2, and AES, CLMUL, XSAVE, RDRAND beside it: SSE3,
/// PCLMULQDQ, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, x2APIC, MOVBE, POPCNT, TSC
/// deadline, AES, XSAVE, OSXSAVE, RDRAND, hypervisor.
const BASELINE_1_ECX: u32 = 1
    | 1 << 1
    | 1 << 9
    | 1 << 13
    | 1 << 19
    | 1 << 20
    | X2APIC
    | 1 << 22
    | 1 << 23
    | TSC_DEADLINE
    | 1 << 25
    | 1 << 26
    | 1 << 27
    | 1 << 30
    | HYPERVISOR;
/// Leaf 7, EBX: FSGSBASE, SMEP, ERMS, RDSEED, SMAP.
const BASELINE_7_EBX: u32 = 1 | 1 << 7 | 1 << 9 | 1 << 18 | 1 << 20;
/// Leaf 7, EDX: what tells of mitigations.
const BASELINE_7_EDX: u32 = 1 << 10 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 29 | 1 << 31;
/// Leaf 0xd, EAX: state of x87 and SSE.
const BASELINE_STATE: u32 = 3;
/// Leaf 0x8000_0001, ECX: LAHF in 64-bit mode.
const BASELINE_EXTENDED_ECX: u32 = 1;

/// The answers of a machine's processors, before they are given to one.
#[derive(Clone, Debug)]
pub(super) struct Template {
    leaves: Vec<kvm_cpuid_entry2>,
    vcpus: u32,
}

impl Template {
    /// What the host offers, less what the settings take away.
    pub(super) fn new(
        kvm: &Kvm,
        model: CpuModel,
        nesting: Nesting,
        vcpus: u32,
    ) -> Result<Self, kvm_ioctls::Error> {
        let offered = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        let mut leaves = offered.as_slice().to_vec();
        if nesting == Nesting::Off {
            hide_virtualization(&mut leaves);
        }
        if model == CpuModel::Baseline {
            reduce(&mut leaves);
        }
        Ok(Self { leaves, vcpus })
    }

    /// The answers of one processor.
    pub(super) fn of(&self, vcpu: u32) -> CpuId {
        let mut leaves = self.leaves.clone();
        for leaf in &mut leaves {
            self.identify(leaf, vcpu);
        }
        CpuId::from_entries(&leaves).expect("no more leaves than KVM gave")
    }

    /// Tells a processor from its siblings: one thread per core, all cores in one
    /// package.
    fn identify(&self, leaf: &mut kvm_cpuid_entry2, vcpu: u32) {
        let cores = self.vcpus;
        match leaf.function {
            1 => {
                leaf.ebx = leaf.ebx & 0xffff | cores.min(255) << 16 | (vcpu & 0xff) << 24;
                leaf.ecx |= HYPERVISOR | TSC_DEADLINE;
                // Several logical processors in a package.
                let several = 1 << 28;
                leaf.edx = leaf.edx & !several | if cores > 1 { several } else { 0 };
            }
            4 => {
                // Caches are a core's own, but for the last level.
                let shared = if leaf.eax >> 5 & 7 == 3 { cores - 1 } else { 0 };
                leaf.eax = leaf.eax & 0x3fff | shared.min(0xfff) << 14 | (cores - 1).min(63) << 26;
            }
            0xb | 0x1f => topology(leaf, vcpu, cores),
            0x8000_0008 => leaf.ecx = leaf.ecx & !0xf0ff | (cores - 1).min(0xff),
            0x8000_001e => {
                leaf.eax = vcpu;
                leaf.ebx = vcpu & 0xff;
                leaf.ecx = 0;
            }
            _ => {}
        }
    }
}

fn topology(leaf: &mut kvm_cpuid_entry2, vcpu: u32, cores: u32) {
    let (threads, package) = (1 << 8, 2 << 8);
    (leaf.eax, leaf.ebx, leaf.ecx) = match leaf.index {
        0 => (0, 1, threads),
        1 => (
            cores.next_power_of_two().trailing_zeros(),
            cores,
            package | 1,
        ),
        index => (0, 0, index),
    };
    leaf.edx = vcpu;
}

fn hide_virtualization(leaves: &mut Vec<kvm_cpuid_entry2>) {
    leaves.retain(|leaf| leaf.function != SVM_LEAF);
    for leaf in leaves {
        match leaf.function {
            1 => leaf.ecx &= !VMX,
            0x8000_0001 => leaf.ecx &= !SVM,
            _ => {}
        }
    }
}

fn reduce(leaves: &mut Vec<kvm_cpuid_entry2>) {
    // Power, performance counters, sub-features of what is not offered.
    let gone = |function| matches!(function, 5 | 6 | 0xa | 0x12 | 0x14 | 0x17..=0x1e | 0x20..=0x24);
    let states = |leaf: &kvm_cpuid_entry2| leaf.function == 0xd && leaf.index > 1;
    leaves.retain(|leaf| !gone(leaf.function) && !states(leaf));
    for leaf in leaves {
        match (leaf.function, leaf.index) {
            (1, _) => leaf.ecx &= BASELINE_1_ECX,
            (7, 0) => {
                leaf.eax = 0;
                leaf.ebx &= BASELINE_7_EBX;
                leaf.ecx = 0;
                leaf.edx &= BASELINE_7_EDX;
            }
            (7, _) => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0),
            (0xd, 0) => {
                leaf.eax &= BASELINE_STATE;
                leaf.edx = 0;
                // The legacy area and the header.
                (leaf.ebx, leaf.ecx) = (576, 576);
            }
            (0xd, _) => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0),
            (0x8000_0001, _) => leaf.ecx &= BASELINE_EXTENDED_ECX,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..kvm_cpuid_entry2::default()
        }
    }

    fn find(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        let found = leaves
            .iter()
            .find(|leaf| (leaf.function, leaf.index) == (function, index));
        *found.unwrap()
    }

    #[test]
    fn processors_differ_in_their_numbers_alone() {
        let template = Template {
            leaves: vec![leaf(1, 0), leaf(0xb, 0), leaf(0xb, 1), leaf(0x8000_001e, 0)],
            vcpus: 3,
        };
        let third = template.of(2);
        let third = third.as_slice();
        assert_eq!(find(third, 1, 0).ebx >> 16, 2 << 8 | 3);
        assert_eq!(
            find(third, 0xb, 1).eax,
            2,
            "two bits tell three cores apart"
        );
        assert_eq!(find(third, 0xb, 0).edx, 2);
        assert_eq!(find(third, 0x8000_001e, 0).eax, 2);
    }

    #[test]
    fn virtualization_is_hidden_from_both_makers_guests() {
        let mut leaves = vec![leaf(1, 0), leaf(0x8000_0001, 0), leaf(SVM_LEAF, 0)];
        hide_virtualization(&mut leaves);
        assert_eq!(leaves.len(), 2);
        assert_eq!(leaves[0].ecx & VMX, 0);
        assert_eq!(leaves[1].ecx & SVM, 0);
    }

    #[test]
    fn the_baseline_has_no_avx_and_no_state_of_it() {
        let mut leaves = vec![
            leaf(1, 0),
            leaf(7, 0),
            leaf(0xd, 0),
            leaf(0xd, 2),
            leaf(0xa, 0),
        ];
        reduce(&mut leaves);
        assert_eq!(leaves.len(), 3);
        assert_eq!(find(&leaves, 1, 0).ecx & (1 << 28 | 1 << 12), 0);
        assert_eq!(find(&leaves, 7, 0).ebx & (1 << 5 | 1 << 16), 0);
        assert_eq!(find(&leaves, 0xd, 0).eax, BASELINE_STATE);
    }
}
