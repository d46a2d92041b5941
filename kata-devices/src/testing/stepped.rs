//! Devices without threads: they work when they are told to.

use std::sync::Arc;

use crate::Result;
use crate::balloon::{Balloon, BalloonConfig, Inflatable};
use crate::blk::{Blk, BlkConfig};
use crate::console::{Console, ConsoleConfig};
use crate::net::{Net, NetConfig};
use crate::rng::{Rng, RngConfig};
use crate::virtio::{Hosted, Step, VirtioDevice};
use crate::vsock::{Served, VsockConfig};

/// Lets a device work.
#[derive(Clone)]
pub struct Stepper(Arc<dyn Step>);

impl std::fmt::Debug for Stepper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stepper").finish_non_exhaustive()
    }
}

/// A device, and what lets it work.
pub type Stepped = (Box<dyn VirtioDevice>, Stepper);

impl Stepper {
    /// Lets the device do what there is to do, but no more than so many rounds.
    ///
    /// # Panics
    /// When it never gets done: a driver made it work for ever.
    pub fn step(&self) {
        const ROUNDS: usize = 10_000;
        assert!(
            (0..ROUNDS).any(|_| !self.0.step()),
            "the device does not get done"
        );
    }
}

macro_rules! stepped {
    ($make:expr) => {{
        let (device, step) = Hosted::stepped($make)?;
        Ok((Box::new(device), Stepper(step)))
    }};
}

/// A disk.
///
/// # Errors
/// When the configuration makes none.
pub fn blk(config: &BlkConfig) -> Result<Stepped> {
    stepped!(|epoll| Blk::new(config, epoll))
}

/// A network card.
///
/// # Errors
/// When the configuration makes none.
pub fn net(config: NetConfig) -> Result<Stepped> {
    stepped!(|epoll| Net::new(config, epoll))
}

/// A console.
///
/// # Errors
/// When the configuration makes none.
pub fn console(config: ConsoleConfig) -> Result<Stepped> {
    stepped!(|epoll| Console::new(config, epoll))
}

/// A source of entropy.
///
/// # Errors
/// When the configuration makes none.
pub fn rng(config: &RngConfig) -> Result<Stepped> {
    stepped!(|epoll| Ok(Rng::new(config, epoll)))
}

/// A balloon.
///
/// # Errors
/// When the configuration makes none.
pub fn balloon(config: &BalloonConfig) -> Result<Stepped> {
    let handle = Balloon::new().map_err(crate::Error::host("make an eventfd"))?;
    stepped!(|epoll| Inflatable::new(config, &handle, epoll))
}

/// A vsock device.
///
/// # Errors
/// When the configuration makes none.
pub fn vsock(config: &VsockConfig) -> Result<Stepped> {
    stepped!(|epoll| Served::new(config, Arc::clone(epoll)))
}
