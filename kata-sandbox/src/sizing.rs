//! How large a sandbox has to be for its containers, and what it has of the
//! host: disks and a control group.

use std::collections::HashMap;
use std::path::PathBuf;

use kata_hypervisor::MemorySize;
use oci_spec::runtime as oci;

use crate::builder::SandboxBuilder;
use crate::cgroup::HostLimits;
use crate::spec::disk_id;

/// What a guest needs beside its containers' own limits, when no annotation
/// says otherwise: its kernel, the agent, its caches.
pub(crate) const GUEST_MEMORY: MemorySize = MemorySize::mib(128);
/// Memory comes and goes in such pieces, where the hypervisor can.
const GRAIN: u64 = 2 << 20;
/// The most processors a sandbox is given for a quota.
const MOST_VCPUS: u64 = 255;

const DEFAULT_VCPUS: &str = "io.katacontainers.config.hypervisor.default_vcpus";
const DEFAULT_MEMORY: &str = "io.katacontainers.config.hypervisor.default_memory";
const CRI_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
const CRI_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";
const CRI_SHARES: &str = "io.kubernetes.cri.sandbox-cpu-shares";
const CRI_MEMORY: &str = "io.kubernetes.cri.sandbox-memory";

/// The processor time and memory that containers are limited to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// In thousandths of a processor; 0 where there is no limit.
    pub(crate) millicpus: u64,
    /// In bytes; 0 where there is no limit.
    pub(crate) memory: u64,
}

impl Limits {
    /// What a specification's resources say.
    pub(crate) fn of(resources: Option<&oci::LinuxResources>) -> Self {
        let cpu = resources.and_then(|resources| resources.cpu().as_ref());
        let quota = cpu.and_then(oci::LinuxCpu::quota).unwrap_or_default();
        let period = cpu.and_then(oci::LinuxCpu::period).unwrap_or_default();
        let memory = resources.and_then(|resources| resources.memory().as_ref());
        let memory = memory.and_then(oci::LinuxMemory::limit).unwrap_or_default();
        Self {
            millicpus: millicpus(quota, period),
            memory: plausible(memory),
        }
    }

    /// What annotations say of a whole pod; `None` where they say nothing.
    fn of_pod(annotations: &HashMap<String, String>) -> Option<Self> {
        let number = |key: &str| annotations.get(key)?.trim().parse::<i64>().ok();
        let named = [CRI_QUOTA, CRI_PERIOD, CRI_SHARES, CRI_MEMORY];
        if !named.iter().any(|key| annotations.contains_key(*key)) {
            return None;
        }
        let period = u64::try_from(number(CRI_PERIOD).unwrap_or_default()).unwrap_or_default();
        let millicpus = match millicpus(number(CRI_QUOTA).unwrap_or_default(), period) {
            // A pod without a limit asks for a share: 1024 are a processor.
            0 => {
                let shares = number(CRI_SHARES).unwrap_or_default();
                let shares = u64::try_from(shares).unwrap_or_default();
                // The least that there is stands for none.
                if shares > 2 { shares * 1000 / 1024 } else { 0 }
            }
            quota => quota,
        };
        Some(Self {
            millicpus,
            memory: plausible(number(CRI_MEMORY).unwrap_or_default()),
        })
    }

    /// With another container's.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            millicpus: self.millicpus.saturating_add(other.millicpus),
            memory: self.memory.saturating_add(other.memory),
        }
    }

    /// Whole processors for it; at least one.
    pub(crate) fn vcpus(self) -> u32 {
        let whole = self.millicpus.div_ceil(1000).clamp(1, MOST_VCPUS);
        u32::try_from(whole).expect("clamped to what 32 bits hold")
    }
}

/// Thousandths of a processor of a quota in a period, both in microseconds.
fn millicpus(quota: i64, period: u64) -> u64 {
    let quota = u64::try_from(quota).unwrap_or_default();
    // Without a period, the kernel's own of 100 ms counts.
    let period = if period == 0 { 100_000 } else { period };
    quota.saturating_mul(1000).div_ceil(period)
}

/// A limit in bytes; clients write "none" as -1, 0, or nearly 2^63.
fn plausible(bytes: i64) -> u64 {
    const NONE: u64 = 1 << 60;
    let bytes = u64::try_from(bytes).unwrap_or_default();
    if bytes >= NONE { 0 } else { bytes }
}

/// Rounded up to what machines are made of.
pub(crate) fn rounded(memory: u64) -> MemorySize {
    MemorySize::bytes(memory.div_ceil(GRAIN).saturating_mul(GRAIN))
}

impl SandboxBuilder {
    /// Makes the sandbox as large as this specification asks for: of its first
    /// container, or of a pod's sandbox container with the annotations of CRI.
    ///
    /// | asked for by | processors | memory |
    /// |---|---|---|
    /// | `io.katacontainers.config.hypervisor.default_vcpus`, `.default_memory` (MiB) | that many at least | the guest's own part |
    /// | `io.kubernetes.cri.sandbox-cpu-quota`, `-period`, `-shares`, `sandbox-memory` | the pod's, rounded up | added to the guest's part |
    /// | else `linux.resources` | the quota's, rounded up | the limit, added to the guest's part |
    ///
    /// The guest's part is 128 MiB where nothing else is said. What is neither
    /// limited nor annotated stays as it is.
    pub fn size_for(mut self, spec: &oci::Spec) -> Self {
        let nothing = HashMap::new();
        let annotations = spec.annotations().as_ref().unwrap_or(&nothing);
        let own = |key: &str| annotations.get(key)?.trim().parse::<u64>().ok();
        let resources = spec.linux().as_ref().and_then(|it| it.resources().as_ref());
        let limits = Limits::of_pod(annotations).unwrap_or_else(|| Limits::of(resources));
        let size = &mut self.blueprint.size;
        let at_least = own(DEFAULT_VCPUS).map_or(1, |count| count.clamp(1, MOST_VCPUS));
        let at_least = u32::try_from(at_least).expect("clamped to what 32 bits hold");
        if limits.millicpus > 0 || annotations.contains_key(DEFAULT_VCPUS) {
            size.vcpus = limits.vcpus().max(at_least);
        }
        let guest = own(DEFAULT_MEMORY).filter(|mib| *mib > 0 && *mib < 1 << 24);
        if limits.memory > 0 || guest.is_some() {
            let guest = guest.map_or(GUEST_MEMORY, MemorySize::mib);
            size.memory = rounded(guest.as_bytes().saturating_add(limits.memory));
        }
        self
    }

    /// The control group on the host that the sandbox's processes are in: the
    /// virtual machine monitor, and the supervisor where there is one. Written
    /// as `linux.cgroupsPath` of the OCI runtime specification is: a path below
    /// the hierarchy's root, or `slice:prefix:name` for systemd's. It is made
    /// where missing, and removed with the sandbox if it was.
    pub fn cgroup(mut self, path: impl Into<String>) -> Self {
        self.blueprint.cgroup = Some(path.into());
        self
    }

    /// Limits the sandbox's processes in that control group as far as a
    /// specification's resources mean something for them: processor shares,
    /// quota, and the processors and memory nodes to use. Where memory is
    /// limited, guest and monitor together are, to the machine's largest size
    /// and what the monitor needs beside it: containers have theirs in the guest.
    pub fn host_limits(mut self, resources: &oci::LinuxResources) -> Self {
        self.blueprint.host_limits = HostLimits::of(resources);
        self
    }

    /// Attaches a disk image or block device from the start, so that containers
    /// can have it whether or not the hypervisor can attach disks later:
    /// [`Rootfs::Block`](crate::Rootfs::Block), a bind mount of a block device,
    /// an entry of `linux.devices`. A file's bytes are the disk's, whatever
    /// they look like.
    pub fn disk(mut self, path: impl Into<PathBuf>, read_only: bool) -> Self {
        let id = disk_id(self.blueprint.disks.len());
        self.blueprint.disks.push(kata_hypervisor::DiskConfig {
            id,
            path: path.into(),
            read_only,
        });
        self
    }

    /// How many disks may be attached while the sandbox runs; by default none.
    /// A machine that has room for some takes a little longer to start.
    pub fn spare_disks(mut self, count: u32) -> Self {
        self.blueprint.spare_disks = count;
        self
    }

    /// How many network interfaces may come while the sandbox runs, by
    /// [`Sandbox::add_network`](crate::Sandbox::add_network) and
    /// [`Sandbox::rescan_networks`](crate::Sandbox::rescan_networks); by default
    /// none. A machine that has room for some takes a little longer to start.
    pub fn spare_interfaces(mut self, count: u32) -> Self {
        self.blueprint.spare_interfaces = count;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Runtime;

    fn sized(json: serde_json::Value) -> (u32, u64) {
        let state = tempfile::tempdir().unwrap();
        let runtime = Runtime::builder().state_dir(state.path()).build().unwrap();
        let spec: oci::Spec = serde_json::from_value(json).unwrap();
        let builder = runtime.sandbox("a").vcpus(3).memory(MemorySize::mib(99));
        let size = builder.size_for(&spec).blueprint.size;
        (size.vcpus, size.memory.as_mib())
    }

    #[test]
    fn what_nothing_limits_stays_as_it_is() {
        let unlimited = serde_json::json!({"ociVersion": "1.2.0", "linux": {"resources": {
            "cpu": {"quota": -1, "period": 100_000}, "memory": {"limit": -1},
        }}});
        assert_eq!(sized(unlimited), (3, 99));
        assert_eq!(sized(serde_json::json!({"ociVersion": "1.2.0"})), (3, 99));
    }

    #[test]
    fn a_containers_limits_are_rounded_up_and_the_guest_comes_on_top() {
        let limited = serde_json::json!({"ociVersion": "1.2.0", "linux": {"resources": {
            "cpu": {"quota": 150_000, "period": 100_000}, "memory": {"limit": (64 << 20) + 1},
        }}});
        assert_eq!(sized(limited), (2, 128 + 66));
    }

    #[test]
    fn a_pods_annotations_count_before_the_sandbox_containers_own_limits() {
        let pod = serde_json::json!({"ociVersion": "1.2.0",
            "annotations": {
                CRI_QUOTA: "250000", CRI_PERIOD: "100000", CRI_SHARES: "512",
                CRI_MEMORY: "1073741824",
            },
            "linux": {"resources": {"cpu": {"shares": 2}, "memory": {"limit": 10 << 20}}},
        });
        assert_eq!(sized(pod), (3, 128 + 1024));
        let shares = serde_json::json!({"ociVersion": "1.2.0",
            "annotations": {CRI_QUOTA: "0", CRI_PERIOD: "0", CRI_SHARES: "1536", CRI_MEMORY: "0"},
        });
        assert_eq!(sized(shares), (2, 99));
    }

    #[test]
    fn katas_annotations_say_what_the_guest_has_by_itself() {
        let kata = serde_json::json!({"ociVersion": "1.2.0",
            "annotations": {DEFAULT_VCPUS: "4", DEFAULT_MEMORY: "512"},
            "linux": {"resources": {"memory": {"limit": 64 << 20}}},
        });
        assert_eq!(sized(kata), (4, 512 + 64));
        let nonsense = serde_json::json!({"ociVersion": "1.2.0",
            "annotations": {DEFAULT_VCPUS: "0", DEFAULT_MEMORY: "-5"},
        });
        assert_eq!(sized(nonsense), (1, 99));
    }

    #[test]
    fn limits_add_up_and_never_overflow() {
        let much = Limits {
            millicpus: u64::MAX,
            memory: u64::MAX,
        };
        assert_eq!(much.plus(much), much);
        assert_eq!(much.vcpus(), 255);
        assert_eq!(Limits::default().vcpus(), 1);
    }
}
