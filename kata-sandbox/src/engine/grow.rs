//! The machine's size: what it is told, and what its containers ask for.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kata_hypervisor::{MachineSize, MemorySize};
use kata_protocol::agent::OnlineCpuMemRequest;

use super::Engine;
use crate::error::{Context, ErrorKind, Result};
use crate::sizing::{GUEST_MEMORY, Limits, rounded};

/// What a machine was described with, and has now.
#[derive(Debug)]
pub(super) struct Size {
    described: MachineSize,
    /// Held while it changes.
    now: tokio::sync::Mutex<(u32, MemorySize)>,
    /// The limits of containers that are being made.
    asked: Mutex<BTreeMap<u64, Limits>>,
}

/// The limits of a container that is being made, until it is there or is not
/// to be: others that are made beside it count them.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    size: &'a Size,
    number: u64,
}

impl Size {
    pub(super) fn new(described: MachineSize) -> Self {
        let now = tokio::sync::Mutex::new((described.vcpus, described.memory));
        Self {
            described,
            now,
            asked: Mutex::default(),
        }
    }

    /// Counts a container that is being made.
    pub(super) fn ask(&self, limits: Limits) -> Asked<'_> {
        let mut asked = self.asked();
        let number = asked.last_key_value().map_or(0, |(last, _)| last + 1);
        asked.insert(number, limits);
        Asked { size: self, number }
    }

    fn asked(&self) -> MutexGuard<'_, BTreeMap<u64, Limits>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.size.asked().remove(&self.number);
    }
}

/// What containers with such limits want of a machine of that size: as much as
/// they may use, and the guest's own part. Nothing is taken away.
fn wanted(described: &MachineSize, now: (u32, MemorySize), limits: Limits) -> (u32, MemorySize) {
    let vcpus = limits.vcpus().clamp(now.0, described.max_vcpus.max(now.0));
    let memory = limits.memory.saturating_add(GUEST_MEMORY.as_bytes());
    let most = described.max_memory.max(now.1);
    // Without a limit, a container makes do with what there is.
    let memory = if limits.memory == 0 {
        now.1
    } else {
        rounded(memory).clamp(now.1, most)
    };
    (vcpus, memory)
}

impl Engine {
    /// Grows the machine when all containers' limits together, with so much
    /// `more`, ask for it, as far as it can: a container that gets less than its limit runs all the same.
    pub(super) async fn grow_for(&self, more: Limits) {
        if self.vm.hotplug().is_none() {
            return;
        }
        let context = self.context("resize sandbox");
        let mut now = self.size.now.lock().await;
        let records = self.containers.all();
        let limits = records.iter().map(|record| record.limits());
        let limits = limits.fold(more, Limits::plus);
        let limits = self
            .size
            .asked()
            .values()
            .copied()
            .fold(limits, Limits::plus);
        let wanted = wanted(&self.size.described, *now, limits);
        if wanted == *now {
            return;
        }
        if let Err(error) = self.change_size(&mut now, wanted, &context).await {
            log::warn!(sandbox_id = self.id(), error:%; "not grown for its containers");
        }
    }

    /// Brings it to that size, as near as the hypervisor can.
    pub(super) async fn set_size(
        &self,
        wanted: (u32, MemorySize),
        context: &Context,
    ) -> Result<(u32, MemorySize)> {
        let mut now = self.size.now.lock().await;
        self.change_size(&mut now, wanted, context).await
    }

    async fn change_size(
        &self,
        now: &mut (u32, MemorySize),
        (vcpus, memory): (u32, MemorySize),
        context: &Context,
    ) -> Result<(u32, MemorySize)> {
        self.require_running(context)?;
        let hotplug = self.vm.hotplug().ok_or_else(|| {
            let reason = "its hypervisor cannot resize machines";
            context.error(ErrorKind::Unsupported, reason)
        })?;
        let sized = hotplug.resize(vcpus, memory).await;
        let sized = sized.map_err(|error| context.vm(error))?;
        let added = sized.0.saturating_sub(now.0);
        *now = sized;
        let request = OnlineCpuMemRequest {
            // A guest finds new processors a moment after they were plugged.
            wait: added > 0,
            nb_cpus: added,
            cpu_only: false,
        };
        let agent = &self.agent;
        let call = agent.calls().online_cpu_mem(&request, agent.deadline());
        self.call(context, call).await?;
        Ok(sized)
    }
}

impl super::ContainerRecord {
    /// What it is limited to.
    pub(super) fn limits(&self) -> Limits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_limits(&self, limits: Limits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_grows_for_limits_within_what_it_was_described_with() {
        let described = MachineSize {
            vcpus: 1,
            max_vcpus: 3,
            memory: MemorySize::mib(256),
            max_memory: MemorySize::mib(1024),
        };
        let now = (1, MemorySize::mib(256));
        let limits = |millicpus, mib: u64| Limits {
            millicpus,
            memory: mib << 20,
        };
        let mib = MemorySize::mib;
        assert_eq!(wanted(&described, now, limits(0, 0)), now);
        assert_eq!(wanted(&described, now, limits(500, 64)), now);
        assert_eq!(wanted(&described, now, limits(1500, 512)), (2, mib(640)));
        assert_eq!(wanted(&described, now, limits(9000, 9999)), (3, mib(1024)));
        let large = (3, mib(1024));
        assert_eq!(wanted(&described, large, limits(100, 1)), large);
    }
}
