//! Making a machine, up to the point where its processors could run.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use kata_devices::balloon::Balloon;
use kata_devices::virtio::ThreadStart;
use kvm_ioctls::{Kvm as Device, VmFd};

use super::arch::{self, Description};
use super::bus::Bus;
use super::cgroup;
use super::confine::{Duties, Filter};
use super::devices::{self, Maker, Named, Topology, Transport};
use super::guest::Guest;
use super::keeper::Machine;
use super::memory::Memory;
use super::settings::Settings;
use super::vcpu::{Control, Vcpus, Wiring};
use super::vm::KvmVm;
use super::{Kvm, NAME};
use crate::config::VmConfig;
use crate::console::{CONSOLE_TAIL, Tail};
use crate::error::{Error, Result};
use crate::host_kvm;
use crate::kernel::{KernelTraits, Known, Words};
use crate::timeline::Timeline;
use crate::validate::{self, Rules};

/// What this backend takes.
const RULES: Rules = Rules {
    backend: NAME,
    supported: arch::SUPPORTED,
    kernels: arch::KERNELS,
    longest_command_line: arch::LONGEST_COMMAND_LINE,
};

/// Makes a machine, on a thread that may block.
pub(super) async fn create(kvm: &Kvm, config: VmConfig, began: Instant) -> Result<KvmVm> {
    kvm.facts().await.map_err(|probe| Error::NotCapable {
        backend: NAME,
        findings: probe.findings,
    })?;
    let timeline = Timeline::default();
    timeline.ended("probe host", began);
    let (settings, known) = (kvm.settings.clone(), Arc::clone(&kvm.kernels));
    let made = tokio::task::spawn_blocking(move || {
        let builder = Builder {
            settings: &settings,
            config: &config,
            timeline: &timeline,
        };
        let machine = builder.build(&known)?;
        KvmVm::new(config, machine, timeline)
    });
    made.await.unwrap_or_else(|error| {
        Err(Error::Host {
            operation: "make the machine".to_owned(),
            source: io::Error::other(error),
        })
    })
}

/// What a machine is made by.
struct Builder<'a> {
    settings: &'a Settings,
    config: &'a VmConfig,
    timeline: &'a Timeline,
}

impl Builder<'_> {
    fn build(&self, known: &Known) -> Result<Machine> {
        let kernel = self.phase("check configuration", || self.check(known))?;
        let (device, vm) = self.phase("open KVM", || self.open())?;
        let guest = self.phase("map memory", || self.guest(vm))?;
        // After the memory: the kernel gives memory to a machine that has chips
        // some milliseconds later.
        self.phase("make chips", || arch::make_chips(guest.vm()))?;
        let console = Arc::new(Tail::new(CONSOLE_TAIL));
        let mut bus = Bus::default();
        let Devices {
            topology,
            transports,
            balloon,
            duties,
        } = self.phase("make devices", || {
            arch::add_legacy(guest.vm(), &console, &mut bus)?;
            self.devices(&guest, &mut bus)
        })?;
        let description = describe(kernel);
        let command_line = self.command_line(description, &topology)?;
        let plan = arch::Plan {
            config: self.config,
            format: kernel.format,
            description,
            command_line: &command_line,
            topology: &topology,
        };
        let entry = self.phase("load kernel", || plan.carry_out(guest.memory().guest()))?;
        let control = Arc::new(Control::new(self.vcpu_count()));
        let wiring = Wiring {
            control,
            bus: Arc::new(bus),
            console,
            filter: Arc::new(Filter::vcpu(duties)?),
            id: self.config.id.as_str().into(),
        };
        let vcpus = self.phase("make processors", || {
            let count = self.config.size.vcpus;
            let made = arch::make_vcpus(&device, guest.vm(), count, self.settings, &entry)?;
            let pinned = made.into_iter().enumerate();
            let pinned = pinned.map(|(index, vcpu)| (vcpu, self.settings.pin(index)));
            Vcpus::start(pinned.collect(), &wiring)
        })?;
        Ok(Machine {
            vcpus,
            wiring,
            transports,
            balloon,
            guest,
        })
    }

    fn phase<T>(&self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let made = work();
        self.timeline.ended(name, began);
        made
    }

    fn check(&self, known: &Known) -> Result<KernelTraits> {
        let size = &self.config.size;
        let kernel = validate::validate(self.config, known, &RULES)?;
        if size.grows() {
            return unsupported("machines that grow");
        }
        if size.vcpus > arch::MOST_VCPUS {
            let reason = format!("{} are more than {}", size.vcpus, arch::MOST_VCPUS);
            return Err(Error::InvalidConfig {
                field: "vcpus",
                reason,
            });
        }
        cgroup::check(&self.config.cgroup)?;
        Ok(kernel)
    }

    fn open(&self) -> Result<(Device, VmFd)> {
        let path = &self.settings.device;
        let device = host_kvm::open(path).map_err(|source| Error::File {
            what: "KVM",
            path: path.clone(),
            source,
        })?;
        let vm = make_vm(&device)?;
        Ok((device, vm))
    }

    fn guest(&self, vm: VmFd) -> Result<Arc<Guest>> {
        let size = self.config.size.memory;
        let memory = Memory::new(size, &arch::memory_ranges(size), self.settings)?;
        Guest::new(vm, memory).map(Arc::new)
    }

    fn devices(&self, guest: &Arc<Guest>, bus: &mut Bus) -> Result<Devices> {
        let (device, vsock) = (Filter::device()?, Filter::vsock()?);
        let start = ThreadStart::new(move |name| match name {
            "kata-vsock" => vsock.apply(),
            // The file server opens files by name: that is what it is for.
            name if name.starts_with("kata-fs") => Ok(()),
            _ => device.apply(),
        });
        let maker = Maker {
            settings: self.settings,
            memory: guest.memory().guest(),
            start: &start,
        };
        let made = maker.make(&self.config.devices)?;
        let topology = Topology::of(made.devices.len(), self.settings.transports)?;
        let duties = Duties {
            moves_functions: topology == Topology::Pci,
            hands_queues_over: made.served_elsewhere,
        };
        let transports = devices::wire(made.devices, &topology, guest, bus)?;
        Ok(Devices {
            topology,
            transports,
            balloon: made.balloon,
            duties,
        })
    }

    fn command_line(&self, description: Description, topology: &Topology) -> Result<String> {
        let mut words = Words::new(&self.config.command_line);
        arch::words(&mut words, description, topology);
        let line = words.into_line();
        validate::command_line(&line, &RULES)?;
        Ok(line)
    }

    fn vcpu_count(&self) -> usize {
        usize::try_from(self.config.size.vcpus).expect("validated")
    }
}

/// How the guest finds the devices, what is there, and what it takes.
struct Devices {
    topology: Topology,
    transports: Vec<Named<Arc<dyn Transport>>>,
    balloon: Option<Balloon>,
    duties: Duties,
}

fn describe(kernel: KernelTraits) -> Description {
    if kernel.finds_announced_devices {
        Description::CommandLine
    } else {
        Description::Acpi
    }
}

fn make_vm(device: &Device) -> Result<VmFd> {
    loop {
        match device.create_vm() {
            Ok(vm) => return Ok(vm),
            // A signal of the host program came in between.
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => {
                return Err(Error::Host {
                    operation: "make a machine".to_owned(),
                    source: error.into(),
                });
            }
        }
    }
}

fn unsupported<T>(operation: &'static str) -> Result<T> {
    Err(Error::Unsupported {
        backend: NAME,
        operation,
    })
}
