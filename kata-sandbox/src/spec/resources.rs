//! Limits that the guest's kernel enforces on a container.

use oci_spec::runtime as oci;

use super::ContainerSpec;
use crate::MemorySize;

/// Microseconds over which the processor share is counted.
const CPU_PERIOD: u64 = 100_000;

impl ContainerSpec {
    /// The most memory that the container may use; beyond it, the kernel kills
    /// ([`Exit::Oom`](crate::Exit::Oom)). Swap is not added to it.
    #[must_use]
    pub fn memory(mut self, limit: MemorySize) -> Self {
        let bytes = i64::try_from(limit.as_bytes()).unwrap_or(i64::MAX);
        let memory = self.resources().memory_mut().get_or_insert_default();
        memory.set_limit(Some(bytes)).set_swap(Some(bytes));
        self
    }

    /// How many processors' worth of time the container may use, such as 0.5.
    /// Less than a hundredth counts as a hundredth.
    #[must_use]
    pub fn cpus(mut self, cpus: f64) -> Self {
        let quota = (cpus.clamp(0.01, 1e6) * 1e5).round();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "clamped to what 64 bits hold"
        )]
        let quota = quota as i64;
        let cpu = self.resources().cpu_mut().get_or_insert_default();
        cpu.set_quota(Some(quota)).set_period(Some(CPU_PERIOD));
        self
    }

    /// The most processes and threads that the container may have.
    #[must_use]
    pub fn pids(mut self, limit: u32) -> Self {
        let mut pids = oci::LinuxPids::default();
        pids.set_limit(limit.into());
        self.resources().set_pids(Some(pids));
        self
    }

    fn resources(&mut self) -> &mut oci::LinuxResources {
        self.linux().resources_mut().get_or_insert_default()
    }
}
