//! The virtio devices of a machine, and how they are wired.

mod irq;
mod mmio;
mod models;
mod pci;
mod routes;

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use kata_devices::virtio::VirtioDevice;

use super::arch;
use super::bus::Bus;
use super::guest::Guest;
use super::settings::Transports;
use crate::error::{Error, Result};

pub(super) use irq::Irq;
pub(super) use mmio::Place;
pub(super) use models::Maker;
pub(super) use pci::{ConfigPorts, ConfigWindow};

/// A device behind its registers, whatever they are.
pub(super) trait Transport: Debug + Send + Sync {
    /// Stops the device's use of guest memory. No processor runs meanwhile.
    fn pause(&self) -> io::Result<()>;

    /// Lets the device go on.
    fn resume(&self) -> io::Result<()>;

    /// Ends the device, and closes what is behind it.
    fn end(&self);
}

/// A device, and what it is called in errors.
pub(super) type Named<D> = (Arc<str>, D);

/// How the guest finds its devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Topology {
    /// At these places, of which it is told.
    Mmio(Vec<Place>),
    /// On a PCI bus, which it searches.
    Pci,
}

impl Topology {
    /// That of so many devices.
    pub(super) fn of(count: usize, transports: Transports) -> Result<Self> {
        let most = match transports {
            Transports::Mmio => arch::MOST_MMIO_DEVICES,
            Transports::Auto | Transports::Pci => MOST_FUNCTIONS,
        };
        if count > most {
            return Err(Error::InvalidConfig {
                field: "devices",
                reason: format!("{count} are more than {most}"),
            });
        }
        let lines_suffice = count <= arch::MOST_MMIO_DEVICES;
        Ok(match transports {
            Transports::Pci => Self::Pci,
            Transports::Auto if !lines_suffice => Self::Pci,
            Transports::Auto | Transports::Mmio => Self::Mmio(arch::places(count)),
        })
    }
}

/// Devices on a bus, beside its bridge.
const MOST_FUNCTIONS: usize = kata_devices::pci::SLOTS - 1;

/// Wires the devices of a machine, in the order in which the guest finds them.
pub(super) fn wire(
    devices: Vec<Named<Box<dyn VirtioDevice>>>,
    topology: &Topology,
    guest: &Arc<Guest>,
    bus: &mut Bus,
) -> Result<Vec<Named<Arc<dyn Transport>>>> {
    match topology {
        Topology::Mmio(places) => {
            let placed = devices.into_iter().zip(places);
            let wired = placed.map(|((name, device), place)| {
                let transport = mmio::wire(device, *place, guest, bus)?;
                Ok((name, transport))
            });
            wired.collect()
        }
        Topology::Pci => {
            let mut builder = pci::Builder::new(guest);
            let wired = devices.into_iter();
            let wired = wired.map(|(name, device)| Ok((name, builder.add(device)?)));
            let wired = wired.collect::<Result<_>>()?;
            arch::add_pci(&builder.finish(), bus);
            Ok(wired)
        }
    }
}

fn failed_bell(source: io::Error) -> Error {
    Error::Host {
        operation: "connect a virtqueue's doorbell".to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_on_a_bus_when_it_was_asked_for_or_lines_do_not_suffice() {
        let lines = arch::MOST_MMIO_DEVICES;
        let of = |count, transports| Topology::of(count, transports).unwrap();
        assert!(
            matches!(of(lines, Transports::Auto), Topology::Mmio(places) if places.len() == lines)
        );
        assert_eq!(of(lines + 1, Transports::Auto), Topology::Pci);
        assert_eq!(of(0, Transports::Pci), Topology::Pci);
        for (count, transports) in [
            (lines + 1, Transports::Mmio),
            (MOST_FUNCTIONS + 1, Transports::Auto),
        ] {
            let error = Topology::of(count, transports).unwrap_err();
            assert!(error.to_string().contains(&count.to_string()), "{error}");
        }
    }
}
