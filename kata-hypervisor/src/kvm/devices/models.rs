//! The models of a machine's devices.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use kata_devices::GuestMemory;
use kata_devices::balloon::Balloon;
use kata_devices::blk::BlkConfig;
use kata_devices::console::ConsoleConfig as ConsoleModel;
use kata_devices::net::{Link, MacAddress, NetConfig, Tap};
use kata_devices::rng::RngConfig;
use kata_devices::vhost::{VhostNetConfig, VhostUserConfig};
use kata_devices::virtio::{ThreadStart, VirtioDevice};

use super::Named;
use crate::config::Devices;
use crate::disk::DiskConfig;
use crate::error::{Error, Result};
use crate::kvm::NAME;
use crate::kvm::settings::{MemoryBacking, Settings};
use crate::nic::{NicBackend, NicConfig};
use crate::port::ConsoleConfig;

/// Whoever moves frames for the host's kernel.
const VHOST_NET: &str = "/dev/vhost-net";

/// What devices are made by.
#[derive(Clone, Copy, Debug)]
pub(in crate::kvm) struct Maker<'a> {
    pub(in crate::kvm) settings: &'a Settings,
    pub(in crate::kvm) memory: &'a Arc<GuestMemory>,
    /// What their threads do first.
    pub(in crate::kvm) start: &'a ThreadStart,
}

/// Devices that were made.
#[derive(Default)]
pub(in crate::kvm) struct Made {
    /// In the order in which the guest finds them.
    pub(in crate::kvm) devices: Vec<Named<Box<dyn VirtioDevice>>>,
    /// The hand on the balloon, if there is one.
    pub(in crate::kvm) balloon: Option<Balloon>,
    /// Whether somebody else serves the queues of one.
    pub(in crate::kvm) served_elsewhere: bool,
}

impl Made {
    fn add(&mut self, name: impl Into<Arc<str>>, device: Box<dyn VirtioDevice>) {
        self.devices.push((name.into(), device));
    }
}

impl Maker<'_> {
    /// Makes the devices of a description.
    pub(in crate::kvm) fn make(&self, devices: &Devices) -> Result<Made> {
        if devices.spare_disks > 0 {
            return unsupported("attaching disks to a running machine");
        }
        if devices.spare_nics > 0 {
            return unsupported("attaching network devices to a running machine");
        }
        let failed = |device: &'static str| move |source| Error::Device { device, source };
        let mut made = Made::default();
        if let Some(vsock) = &devices.vsock {
            let device = vsock.device(self.start).map_err(failed("vsock"))?;
            made.add("vsock", device);
        }
        for filesystem in &devices.filesystems {
            let device = filesystem.device(self.start).map_err(failed("virtio-fs"))?;
            made.add(format!("virtio-fs {:?}", filesystem.tag), device);
        }
        for disk in &devices.disks {
            let device = blk(disk).device(self.start).map_err(failed("disk"))?;
            made.add(format!("disk {}", disk.path.display()), device);
        }
        for (index, nic) in devices.nics.iter().enumerate() {
            let device = self.card(nic, &mut made.served_elsewhere)?;
            made.add(format!("network {index}"), device);
        }
        if devices.rng {
            let device = RngConfig::default().device(self.start);
            made.add("entropy", device.map_err(failed("entropy"))?);
        }
        if let Some(balloon) = &devices.balloon {
            let (device, hand) = balloon.device(self.start).map_err(failed("balloon"))?;
            made.add("balloon", device);
            made.balloon = Some(hand);
        }
        if let Some(console) = &devices.console {
            let console = model_of(console)?;
            let device = console.device(self.start).map_err(failed("console"))?;
            made.add("console", device);
        }
        Ok(made)
    }

    /// A card; notes when somebody else serves its queues.
    fn card(&self, nic: &NicConfig, elsewhere: &mut bool) -> Result<Box<dyn VirtioDevice>> {
        let failed = |source| Error::Device {
            device: "network",
            source,
        };
        let device = match &nic.backend {
            NicBackend::VhostUser { socket, queues: 1 } => {
                *elsewhere = true;
                self.vhost_user(nic, socket)?.device(self.start)
            }
            NicBackend::VhostUser { .. } => {
                return unsupported("vhost-user network devices of several queue pairs");
            }
            NicBackend::Tap(queues) if queues.len() == 1 && self.kernel_moves_frames() => {
                *elsewhere = true;
                let card = VhostNetConfig {
                    tap: tap(queues)?,
                    mac: MacAddress(nic.mac),
                    mtu: u16::try_from(nic.mtu).ok(),
                };
                card.device(Arc::clone(self.memory))
            }
            NicBackend::Tap(queues) => net(nic, Link::Tap(tap(queues)?)).device(self.start),
            NicBackend::Stream(fd) => net(nic, Link::Stream(duplicate(fd)?)).device(self.start),
        };
        device.map_err(failed)
    }

    fn vhost_user(&self, nic: &NicConfig, socket: &Path) -> Result<VhostUserConfig> {
        if self.settings.backing == MemoryBacking::Private {
            return Err(Error::InvalidConfig {
                field: "memory_backing",
                reason: "a vhost-user back end needs memory that can be shared".to_owned(),
            });
        }
        let card = VhostUserConfig::net(socket, MacAddress(nic.mac));
        Ok(match u16::try_from(nic.mtu) {
            Ok(mtu) => card.with_mtu(mtu),
            Err(_) => card,
        })
    }

    fn kernel_moves_frames(&self) -> bool {
        self.settings.vhost_net && Path::new(VHOST_NET).exists()
    }
}

fn unsupported<T>(operation: &'static str) -> Result<T> {
    Err(Error::Unsupported {
        backend: NAME,
        operation,
    })
}

fn blk(disk: &DiskConfig) -> BlkConfig {
    BlkConfig {
        read_only: disk.read_only,
        serial: disk.id.clone(),
        ..BlkConfig::new(&disk.path)
    }
}

fn net(nic: &NicConfig, link: Link) -> NetConfig {
    NetConfig {
        mac: Some(MacAddress(nic.mac)),
        mtu: u16::try_from(nic.mtu).ok(),
        ..NetConfig::new(link)
    }
}

fn tap(queues: &[Arc<OwnedFd>]) -> Result<Tap> {
    let queues: Result<Vec<_>> = queues.iter().map(|fd| duplicate(fd)).collect();
    Tap::from_queues(queues?).map_err(|source| Error::Device {
        device: "network",
        source,
    })
}

fn model_of(console: &ConsoleConfig) -> Result<ConsoleModel> {
    let input = console.input.as_ref().map(|fd| duplicate(fd));
    Ok(ConsoleModel {
        input: input.transpose()?,
        output: duplicate(&console.output)?,
    })
}

/// The description keeps its descriptors: a machine can be made of it again.
fn duplicate(fd: &OwnedFd) -> Result<OwnedFd> {
    fd.try_clone().map_err(|source| Error::Host {
        operation: "duplicate the descriptor of a device".to_owned(),
        source,
    })
}
