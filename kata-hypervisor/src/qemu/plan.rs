//! From a description and the host's facts to QEMU's command line: pure.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

use super::arch;
use super::args::{
    Accel, Argument, Backend, Bare, Bus, Chardev, Cpu, Disk, Kernel, Machine, MemfdBackend, Memory,
    Monitor, Name, NativeHotplug, Netdev, Nic, PluggedMemory, Rng, RootPort, Sandbox, Serial, Smp,
    VhostUserFs, VhostUserVsock,
};
use super::probe::Facts;
use super::{MachineChoice, Settings};
use crate::config::{MemorySize, VmConfig};
use crate::kernel::{KernelTraits, Words};
use crate::medium::Medium;
use crate::probe::Acceleration;

/// How many virtio devices a `microvm` has room for without ACPI.
const MICROVM_SLOTS: usize = 8;

/// How a machine will be made.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    machine: Machine,
    acceleration: Acceleration,
    kernel: Kernel,
    sandbox: bool,
    extra: Vec<OsString>,
}

/// Where the machine's connections to this process are.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    /// QEMU's end of the machine protocol's socket.
    pub(super) monitor: RawFd,
    /// QEMU's end of the vsock device's connection to its back end.
    pub(super) vsock: Option<RawFd>,
    /// The same for each file system, with its tag.
    pub(super) filesystems: Vec<(String, RawFd)>,
    /// What each network device is connected to.
    pub(super) nics: Vec<NicConnection>,
}

/// What a network device is connected to.
#[derive(Clone, Debug)]
pub(super) enum NicConnection {
    /// Something that is named by itself.
    Netdev(Netdev),
    /// Where a vhost-user back end listens, and its number of queue pairs.
    VhostUser(PathBuf, usize),
}

impl Plan {
    /// Decides.
    pub(super) fn new(
        settings: &Settings,
        facts: &Facts,
        kernel: KernelTraits,
        config: &VmConfig,
    ) -> Self {
        let microvm = facts.has_microvm
            && kernel.finds_announced_devices
            && virtio_devices(config) <= MICROVM_SLOTS;
        let choice: MachineChoice = settings.machine;
        let grows = config.size.grows() || spare_ports(config) > 0;
        let machine = arch::machine(choice, grows, microvm, facts.acceleration);
        Self {
            machine,
            acceleration: facts.acceleration,
            kernel: Kernel {
                image: config.kernel.clone(),
                initramfs: config.initramfs.clone(),
                command_line: command_line(machine, facts, config),
            },
            sandbox: facts.has_sandbox,
            extra: settings.extra_args.clone(),
        }
    }

    /// What the guest's kernel is told.
    pub(super) fn command_line(&self) -> &str {
        &self.kernel.command_line
    }

    /// QEMU's arguments.
    pub(super) fn to_args(&self, config: &VmConfig, connections: &Connections) -> Vec<OsString> {
        let mut args: Vec<Box<dyn Argument>> = vec![
            Box::new(Bare),
            Box::new(Name(config.id.clone())),
            Box::new(self.machine),
            Box::new(Accel(self.acceleration)),
            Box::new(Cpu(arch::cpu(self.acceleration))),
            Box::new(Smp {
                now: config.size.vcpus,
                most: config.size.max_vcpus,
            }),
            Box::new(Memory {
                now: config.size.memory,
                most: config.size.max_memory,
            }),
            Box::new(MemfdBackend {
                size: config.size.memory,
            }),
            Box::new(chardev("qmp", Backend::Inherited(connections.monitor))),
            Box::new(Monitor { chardev: "qmp" }),
            Box::new(chardev("console", Backend::Stdio)),
            Box::new(Serial { chardev: "console" }),
        ];
        if self.sandbox {
            args.push(Box::new(Sandbox));
        }
        args.extend(self.devices(config, connections));
        args.push(Box::new(self.kernel.clone()));
        let mut words: Vec<OsString> = args.iter().flat_map(|arg| arg.to_args()).collect();
        words.extend(self.extra.iter().cloned());
        words
    }

    fn devices(&self, config: &VmConfig, connections: &Connections) -> Vec<Box<dyn Argument>> {
        let bus = arch::bus(self.machine);
        let mut devices: Vec<Box<dyn Argument>> = Vec::new();
        if let Some(fd) = connections.vsock {
            devices.push(Box::new(chardev("vsock", Backend::Inherited(fd))));
            devices.push(Box::new(VhostUserVsock {
                bus,
                chardev: "vsock".to_owned(),
            }));
        }
        for (index, (tag, fd)) in connections.filesystems.iter().enumerate() {
            let id = format!("fs{index}");
            devices.push(Box::new(chardev(&id, Backend::Inherited(*fd))));
            devices.push(Box::new(VhostUserFs {
                bus,
                chardev: id,
                tag: tag.clone(),
            }));
        }
        let nics = config.devices.nics.iter().zip(&connections.nics);
        for (index, (nic, connection)) in nics.enumerate() {
            let netdev = match connection {
                NicConnection::Netdev(netdev) => netdev.clone(),
                NicConnection::VhostUser(socket, queues) => {
                    let id = format!("vhost-net{index}");
                    devices.push(Box::new(chardev(&id, Backend::Socket(socket.clone()))));
                    Netdev::VhostUser {
                        chardev: id,
                        queues: *queues,
                    }
                }
            };
            devices.push(Box::new(Nic {
                bus,
                index,
                mac: nic.mac,
                mtu: nic.mtu,
                netdev,
            }));
        }
        if config.devices.rng {
            devices.push(Box::new(Rng { bus }));
        }
        devices.extend(self.disks(config, bus));
        let plugged = config.size.max_memory.as_bytes() - config.size.memory.as_bytes();
        if plugged > 0 && self.can_grow() {
            let most = MemorySize::bytes(plugged);
            devices.push(Box::new(PluggedMemory { most }));
        }
        if let Some(notifier) = arch::pvpanic(self.machine) {
            devices.push(Box::new(notifier));
        }
        devices
    }
}

/// How many ports there are for devices that may come: those of disks, then
/// those of network devices.
fn spare_ports(config: &VmConfig) -> u32 {
    config.devices.spare_disks + config.devices.spare_nics
}

/// How many virtio devices the machine has.
fn virtio_devices(config: &VmConfig) -> usize {
    let devices = &config.devices;
    usize::from(devices.vsock.is_some())
        + devices.filesystems.len()
        + devices.disks.len()
        + devices.nics.len()
        + usize::from(devices.rng)
}

impl Plan {
    fn disks(&self, config: &VmConfig, bus: Bus) -> Vec<Box<dyn Argument>> {
        let mut args: Vec<Box<dyn Argument>> = Vec::new();
        for disk in &config.devices.disks {
            args.push(Box::new(Disk {
                bus,
                id: disk.id.clone(),
                path: disk.path.clone(),
                // Checked a moment ago; what has changed since QEMU refuses.
                medium: Medium::of(&disk.path).unwrap_or(Medium::File),
                read_only: disk.read_only,
            }));
        }
        let spare = spare_ports(config);
        if spare > 0 && self.machine == Machine::Q35 {
            args.push(Box::new(NativeHotplug));
        }
        for number in 0..spare {
            args.push(Box::new(RootPort { number }));
        }
        args
    }

    /// Whether the machine can change while it runs.
    pub(super) fn can_grow(&self) -> bool {
        arch::can_grow(self.machine)
    }
}

fn chardev(id: &str, backend: Backend) -> Chardev {
    Chardev {
        id: id.to_owned(),
        backend,
    }
}

fn command_line(machine: Machine, facts: &Facts, config: &VmConfig) -> String {
    let mut words = Words::new(&config.command_line);
    // A kernel that panics ends the machine instead of keeping it.
    words.default("panic", "panic=-1");
    if spare_ports(config) > 0 {
        // Small kernels lack what firmware wants before it leaves plugging to
        // them, and can do it all the same.
        words.default("pcie_ports", "pcie_ports=native");
    }
    arch::command_line(
        &mut words,
        machine,
        facts.acceleration,
        &config.size,
        facts.tsc_khz,
    );
    words.into_line()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
