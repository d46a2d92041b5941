//! What the embedder chose.

use std::path::PathBuf;

/// Which guests are to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Guests {
    /// Stock kernels. A host whose KVM cannot run them is not usable.
    #[default]
    Kernels,
    /// Programs of one's own, whatever instructions they do without: any KVM
    /// with the interfaces that the monitor needs is usable.
    Any,
}

/// The processor that guests see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CpuModel {
    /// The host's, as far as KVM can offer it.
    #[default]
    Host,
    /// What x86-64-v2 processors have in common, with AES, XSAVE and RDRAND
    /// where the host has them: the same for guests on hosts that differ.
    Baseline,
}

/// Whether guests may run virtual machines of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Nesting {
    /// They see a processor without virtualization.
    #[default]
    Off,
    /// They see the host's virtualization, where KVM offers it.
    On,
}

/// The size of the host's pages behind guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PageSize {
    /// The host's ordinary pages.
    #[default]
    Ordinary,
    /// 2 MiB, from the host's pool. All are taken at once, or the machine is
    /// not made.
    Huge2M,
    /// 1 GiB, likewise.
    Huge1G,
}

/// What guest memory is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryBacking {
    /// A file without a name, which other processes can be given: vhost-user
    /// devices need it.
    #[default]
    Shared,
    /// Memory of this process alone, which the host may merge into transparent
    /// huge pages. Ordinary pages only.
    Private,
}

/// How guests find their devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transports {
    /// As registers in memory (virtio-mmio) while there are enough interrupt lines,
    /// else on a PCI bus.
    #[default]
    Auto,
    /// As registers in memory: the shortest way to a running guest, for at most 18
    /// devices.
    Mmio,
    /// On a PCI bus (virtio-pci), with an interrupt per queue, for at most 31
    /// devices.
    Pci,
}

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) device: PathBuf,
    pub(super) guests: Guests,
    pub(super) cpu_model: CpuModel,
    pub(super) nesting: Nesting,
    pub(super) page_size: PageSize,
    pub(super) backing: MemoryBacking,
    pub(super) prefault: bool,
    pub(super) transports: Transports,
    pub(super) vhost_net: bool,
    pub(super) pins: Vec<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            device: PathBuf::from(crate::host_kvm::DEVICE),
            guests: Guests::default(),
            cpu_model: CpuModel::default(),
            nesting: Nesting::default(),
            page_size: PageSize::default(),
            backing: MemoryBacking::default(),
            prefault: false,
            transports: Transports::default(),
            vhost_net: false,
            pins: Vec::new(),
        }
    }
}

impl Settings {
    /// The host's processor to which a virtual one is bound.
    pub(super) fn pin(&self, vcpu: usize) -> Option<usize> {
        let index = vcpu.checked_rem(self.pins.len())?;
        self.pins.get(index).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_dealt_out_in_turn() {
        let mut settings = Settings::default();
        assert_eq!(settings.pin(0), None);
        settings.pins = vec![4, 6];
        assert_eq!(
            [0, 1, 2].map(|vcpu| settings.pin(vcpu)),
            [Some(4), Some(6), Some(4)]
        );
    }
}
