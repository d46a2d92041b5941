//! The bus: which function answers.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::address::{ConfigAddress, ConfigPorts};
use super::host_bridge::HostBridge;
use crate::{Error, Result};

/// Devices on the bus, the host bridge included.
pub const SLOTS: usize = 32;

/// A place on the bus: the number of a device, 1 to 31.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(pub u8);

/// A function on the bus, with at most one BAR, of memory.
pub trait PciFunction: Send + Sync {
    /// The guest reads configuration space at byte `at`.
    fn read_config(&self, at: usize, data: &mut [u8]);
    /// The guest writes it.
    fn write_config(&self, at: usize, data: &[u8]);
    /// Where the BAR is; `None` while the function does not answer there.
    fn bar(&self) -> Option<u64>;
    /// Bytes of the BAR.
    fn bar_size(&self) -> u64;
    /// The guest reads memory at `offset` of the BAR.
    fn read_bar(&self, offset: u64, data: &mut [u8]);
    /// The guest writes it.
    fn write_bar(&self, offset: u64, data: &[u8]);
}

/// Hears where BARs are, to keep what depends on addresses in place.
pub trait BarListener: Send + Sync {
    /// The BAR of the function in `slot` has moved. `None` is nowhere.
    fn moved(&self, slot: Slot, from: Option<u64>, to: Option<u64>);
}

/// A bus with a host bridge and up to 31 functions.
pub struct PciBus {
    functions: RwLock<Vec<Option<Arc<dyn PciFunction>>>>,
    ports: Mutex<ConfigPorts>,
    /// Held while a function may move, so that listeners hear of moves in order.
    moving: Mutex<()>,
    listener: Option<Arc<dyn BarListener>>,
}

impl std::fmt::Debug for PciBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PciBus").finish_non_exhaustive()
    }
}

impl PciBus {
    /// A bus with its host bridge only.
    #[must_use]
    pub fn new(listener: Option<Arc<dyn BarListener>>) -> Self {
        let bridge: Arc<dyn PciFunction> = Arc::new(HostBridge::new());
        let mut functions = vec![Some(bridge)];
        functions.resize_with(SLOTS, || None);
        Self {
            functions: RwLock::new(functions),
            ports: Mutex::default(),
            moving: Mutex::default(),
            listener,
        }
    }

    /// Puts a function into the first free slot.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when the bus is full.
    pub fn add(&self, function: Arc<dyn PciFunction>) -> Result<Slot> {
        let mut functions = self
            .functions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let free = functions.iter().position(Option::is_none);
        let slot = free.and_then(|at| u8::try_from(at).ok().map(|slot| (at, slot)));
        let Some((at, slot)) = slot else {
            return Err(Error::InvalidConfig {
                field: "pci",
                reason: format!("a bus has {SLOTS} slots, all of which are taken"),
            });
        };
        functions[at] = Some(function);
        Ok(Slot(slot))
    }

    /// Takes a function away.
    pub fn remove(&self, slot: Slot) -> Option<Arc<dyn PciFunction>> {
        let at = usize::from(slot.0);
        let mut functions = self
            .functions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let taken = functions.get_mut(at).filter(|_| at > 0)?.take();
        drop(functions);
        if let (Some(function), Some(listener)) = (&taken, &self.listener) {
            listener.moved(slot, function.bar(), None);
        }
        taken
    }

    /// Tells the listener where the function in `slot` is, which was restored.
    pub fn tell_place(&self, slot: Slot) {
        let functions = self
            .functions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let function = functions.get(usize::from(slot.0)).cloned().flatten();
        drop(functions);
        let _moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(function), Some(listener)) = (function, &self.listener) {
            listener.moved(slot, None, function.bar());
        }
    }

    /// The guest reads from the ports, `offset` from [`ConfigPorts::BASE`] on.
    pub fn read_port(&self, offset: u16, data: &mut [u8]) {
        let ports = *self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        match ports.data(offset, data.len()) {
            Some(address) => self.read_config(address, data),
            None => ports.read_address(offset, data),
        }
    }

    /// The guest writes to the ports.
    pub fn write_port(&self, offset: u16, data: &[u8]) {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        match ports.data(offset, data.len()) {
            Some(address) => {
                drop(ports);
                self.write_config(address, data);
            }
            None => ports.write_address(offset, data),
        }
    }

    /// The guest reads from an ECAM window of one or more buses.
    pub fn read_ecam(&self, offset: u64, data: &mut [u8]) {
        match ConfigAddress::from_ecam(offset) {
            Some(address) => self.read_config(address, data),
            None => data.fill(0xff),
        }
    }

    /// The guest writes to an ECAM window.
    pub fn write_ecam(&self, offset: u64, data: &[u8]) {
        if let Some(address) = ConfigAddress::from_ecam(offset) {
            self.write_config(address, data);
        }
    }

    /// The guest reads memory at `address`; `false` when no BAR is there.
    pub fn read_memory(&self, address: u64, data: &mut [u8]) -> bool {
        let found = self.at(address, data.len());
        if let Some((function, offset)) = &found {
            function.read_bar(*offset, data);
        }
        found.is_some()
    }

    /// The guest writes memory at `address`; `false` when no BAR is there.
    pub fn write_memory(&self, address: u64, data: &[u8]) -> bool {
        let found = self.at(address, data.len());
        if let Some((function, offset)) = &found {
            function.write_bar(*offset, data);
        }
        found.is_some()
    }

    fn read_config(&self, address: ConfigAddress, data: &mut [u8]) {
        match self.function(address) {
            Some((_, function)) => function.read_config(usize::from(address.register), data),
            None => data.fill(0xff),
        }
    }

    fn write_config(&self, address: ConfigAddress, data: &[u8]) {
        let Some((slot, function)) = self.function(address) else {
            return;
        };
        let _moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        let from = function.bar();
        function.write_config(usize::from(address.register), data);
        let to = function.bar();
        if let (true, Some(listener)) = (from != to, &self.listener) {
            listener.moved(slot, from, to);
        }
    }

    fn function(&self, address: ConfigAddress) -> Option<(Slot, Arc<dyn PciFunction>)> {
        if address.bus != 0 || address.function != 0 {
            return None;
        }
        let functions = self
            .functions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let function = functions.get(usize::from(address.device))?.clone()?;
        Some((Slot(address.device), function))
    }

    /// The function whose BAR has all of an access.
    fn at(&self, address: u64, length: usize) -> Option<(Arc<dyn PciFunction>, u64)> {
        let length = u64::try_from(length).ok()?;
        let functions = self
            .functions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        functions.iter().flatten().find_map(|function| {
            let offset = address.checked_sub(function.bar()?)?;
            let end = offset.checked_add(length)?;
            (end <= function.bar_size()).then(|| (Arc::clone(function), offset))
        })
    }
}
