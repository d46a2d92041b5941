//! Who takes a machine apart, whenever and however it ends.
//!
//! Each machine has a keeper: a thread that waits for its processors, and then
//! ends its devices, so that streams of a guest that is gone end too. Then it
//! tells, and only then does what takes the kernel long: some 20 ms to close a
//! machine that has interrupt controllers, and more to free its memory.

use std::sync::{Arc, Weak};

use kata_devices::balloon::Balloon;
use tokio::sync::watch;

use super::devices::{Named, Transport};
use super::guest::Guest;
use super::vcpu::{Vcpus, Wiring};
use crate::error::{Error, Result};

/// What makes up a machine. Fields drop top to bottom: what runs guest code goes
/// before what it touches.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) vcpus: Vcpus,
    pub(super) wiring: Wiring,
    pub(super) transports: Vec<Named<Arc<dyn Transport>>>,
    pub(super) balloon: Option<Balloon>,
    pub(super) guest: Arc<Guest>,
}

/// A machine in the hands of its keeper. What is weak here is there as long as
/// the machine has not ended.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) transports: Vec<Named<Weak<dyn Transport>>>,
    pub(super) guest: Weak<Guest>,
    release: watch::Receiver<Release>,
}

/// How far the keeper has got.
#[derive(Clone, Debug)]
enum Release {
    /// Processors may run.
    NotBegun,
    /// This device is ending.
    Ending(Arc<str>),
    /// Nothing is left that another machine would miss.
    Done,
}

impl Machine {
    /// Gives it a keeper.
    pub(super) fn keep(self) -> Result<Kept> {
        let (tell, release) = watch::channel(Release::NotBegun);
        let weak = |(name, transport): &Named<_>| (Arc::clone(name), Arc::downgrade(transport));
        let kept = Kept {
            transports: self.transports.iter().map(weak).collect(),
            guest: Arc::downgrade(&self.guest),
            release,
        };
        std::thread::Builder::new()
            .name("kata-keeper".to_owned())
            .spawn(move || self.keep_until_over(&tell))
            .map_err(|source| Error::Host {
                operation: "start the machine's keeper".to_owned(),
                source,
            })?;
        Ok(kept)
    }

    fn keep_until_over(self, tell: &watch::Sender<Release>) {
        let Self {
            vcpus,
            wiring,
            transports,
            balloon: _,
            guest,
        } = self;
        vcpus.join();
        // Not by dropping them: somebody may be about to pause them.
        for (name, transport) in &transports {
            tell.send_replace(Release::Ending(Arc::clone(name)));
            transport.end();
        }
        tell.send_replace(Release::Done);
        drop(wiring);
        drop(transports);
        drop(guest);
    }
}

impl Kept {
    /// Waits until nothing is left that another machine would miss.
    pub(super) async fn released(&self) {
        let mut release = self.release.clone();
        let done = release.wait_for(|release| matches!(release, Release::Done));
        // A keeper that is gone has nothing more to release.
        let _ = done.await;
    }

    /// The device that is ending now.
    pub(super) fn ending(&self) -> Option<Arc<str>> {
        match &*self.release.borrow() {
            Release::Ending(name) => Some(Arc::clone(name)),
            Release::NotBegun | Release::Done => None,
        }
    }
}
