//! Limits of a specification, as the agent is told them.

use oci_spec::runtime as oci;

use super::{each, map, word};
use crate::agent as wire;

/// The agent's form of resource limits.
#[must_use]
pub fn resources(resources: &oci::LinuxResources) -> wire::LinuxResources {
    wire::LinuxResources {
        devices: each(resources.devices(), |rule| wire::LinuxDeviceCgroup {
            allow: rule.allow(),
            r#type: rule
                .typ()
                .map(|kind| kind.as_str().to_owned())
                .unwrap_or_default(),
            major: rule.major().unwrap_or(-1),
            minor: rule.minor().unwrap_or(-1),
            access: word(rule.access()),
        }),
        memory: resources.memory().as_ref().map(|memory| wire::LinuxMemory {
            limit: memory.limit().unwrap_or(0),
            reservation: memory.reservation().unwrap_or(0),
            swap: memory.swap().unwrap_or(0),
            kernel: memory.kernel().unwrap_or(0),
            kernel_tcp: memory.kernel_tcp().unwrap_or(0),
            swappiness: memory.swappiness().unwrap_or(0),
            disable_oom_killer: memory.disable_oom_killer().unwrap_or(false),
            check_before_update: memory.check_before_update().unwrap_or(false),
        }),
        cpu: resources.cpu().as_ref().map(|cpu| wire::LinuxCpu {
            shares: cpu.shares().unwrap_or(0),
            quota: cpu.quota().unwrap_or(0),
            period: cpu.period().unwrap_or(0),
            realtime_runtime: cpu.realtime_runtime().unwrap_or(0),
            realtime_period: cpu.realtime_period().unwrap_or(0),
            cpus: word(cpu.cpus()),
            mems: word(cpu.mems()),
            idle: cpu.idle(),
            burst: cpu.burst(),
        }),
        pids: resources.pids().as_ref().map(|pids| wire::LinuxPids {
            limit: pids.limit(),
        }),
        block_io: resources.block_io().as_ref().map(block_io),
        hugepage_limits: each(resources.hugepage_limits(), |limit| {
            wire::LinuxHugepageLimit {
                pagesize: limit.page_size().clone(),
                // A negative limit means none; the wire has only the largest number.
                limit: u64::try_from(limit.limit()).unwrap_or(u64::MAX),
            }
        }),
        network: resources
            .network()
            .as_ref()
            .map(|network| wire::LinuxNetwork {
                class_id: network.class_id().unwrap_or(0),
                priorities: each(network.priorities(), |priority| {
                    wire::LinuxInterfacePriority {
                        name: priority.name().clone(),
                        priority: priority.priority(),
                    }
                }),
            }),
        unified: map(resources.unified()),
        rdma: resources.rdma().iter().flatten().map(rdma).collect(),
    }
}

fn block_io(io: &oci::LinuxBlockIo) -> wire::LinuxBlockIo {
    let throttle = |devices: &Option<Vec<oci::LinuxThrottleDevice>>| {
        each(devices, |device| wire::LinuxThrottleDevice {
            major: device.major(),
            minor: device.minor(),
            rate: device.rate(),
        })
    };
    wire::LinuxBlockIo {
        weight: io.weight().unwrap_or(0).into(),
        leaf_weight: io.leaf_weight().unwrap_or(0).into(),
        weight_device: each(io.weight_device(), |device| wire::LinuxWeightDevice {
            major: device.major(),
            minor: device.minor(),
            weight: device.weight().unwrap_or(0).into(),
            leaf_weight: device.leaf_weight().unwrap_or(0).into(),
        }),
        throttle_read_bps_device: throttle(io.throttle_read_bps_device()),
        throttle_write_bps_device: throttle(io.throttle_write_bps_device()),
        throttle_read_iops_device: throttle(io.throttle_read_iops_device()),
        throttle_write_iops_device: throttle(io.throttle_write_iops_device()),
    }
}

fn rdma((device, limits): (&String, &oci::LinuxRdma)) -> (String, wire::LinuxRdma) {
    let limits = wire::LinuxRdma {
        hca_handles: limits.hca_handles(),
        hca_objects: limits.hca_objects(),
    };
    (device.clone(), limits)
}
