//! Who takes a machine apart, whenever and however it ends.
//!
//! Each machine has a keeper: a thread that waits for its processors, and then
//! ends its devices, so that streams of a guest that is gone end too. Then it
//! tells, and only then does what takes the kernel long: some 20 ms to close a
//! machine that has interrupt controllers, and more to free its memory.

use std::sync::{Arc, Weak};

use kata_devices::virtio::mmio::MmioTransport;
use kvm_ioctls::VmFd;
use tokio::sync::watch;

use super::memory::Memory;
use super::vcpu::{Vcpus, Wiring};
use crate::error::{Error, Result};

/// What makes up a machine. Fields drop top to bottom: what runs guest code goes
/// before what it touches.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) vcpus: Vcpus,
    pub(super) wiring: Wiring,
    pub(super) transports: Vec<Arc<MmioTransport>>,
    pub(super) vm: Arc<VmFd>,
    pub(super) memory: Arc<Memory>,
}

/// A machine in the hands of its keeper. What is weak here is there as long as
/// the machine has not ended.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) transports: Vec<Weak<MmioTransport>>,
    pub(super) vm: Weak<VmFd>,
    pub(super) memory: Weak<Memory>,
    released: watch::Receiver<bool>,
}

impl Machine {
    /// Gives it a keeper.
    pub(super) fn keep(self) -> Result<Kept> {
        let (release, released) = watch::channel(false);
        let kept = Kept {
            transports: self.transports.iter().map(Arc::downgrade).collect(),
            vm: Arc::downgrade(&self.vm),
            memory: Arc::downgrade(&self.memory),
            released,
        };
        std::thread::Builder::new()
            .name("kata-keeper".to_owned())
            .spawn(move || self.keep_until_over(&release))
            .map_err(|source| Error::Host {
                operation: "start the machine's keeper".to_owned(),
                source,
            })?;
        Ok(kept)
    }

    fn keep_until_over(self, release: &watch::Sender<bool>) {
        let Self {
            vcpus,
            wiring,
            transports,
            vm,
            memory,
        } = self;
        vcpus.join();
        // The bus is the other owner of the devices.
        drop(wiring);
        drop(transports);
        release.send_replace(true);
        drop(vm);
        drop(memory);
    }
}

impl Kept {
    /// Waits until nothing is left that another machine would miss.
    pub(super) async fn released(&self) {
        // A keeper that is gone has nothing more to release.
        let _ = self.released.clone().wait_for(|released| *released).await;
    }
}
