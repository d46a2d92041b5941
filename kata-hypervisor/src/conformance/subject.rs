//! What is tested.

use std::sync::Arc;
use std::time::Duration;

use super::guest::Guest;
use crate::vm::Hypervisor;

/// A backend under test, and a guest for it to run.
#[derive(Clone, Debug)]
pub struct Subject {
    pub(super) hypervisor: Arc<dyn Hypervisor>,
    pub(super) broken: Option<Arc<dyn Hypervisor>>,
    pub(super) guest: Guest,
    pub(super) patience: Duration,
    pub(super) vcpus: u32,
}

impl Subject {
    /// Tests `hypervisor` with `guest`.
    #[must_use]
    pub fn new(hypervisor: impl Hypervisor, guest: Guest) -> Self {
        let patience = Duration::from_secs(120);
        Self {
            vcpus: 1,
            hypervisor: Arc::new(hypervisor),
            broken: None,
            guest,
            patience,
        }
    }

    /// The same backend set up so that it cannot work, such as with a program
    /// that is not there: it must say so.
    #[must_use]
    pub fn broken(mut self, hypervisor: impl Hypervisor) -> Self {
        self.broken = Some(Arc::new(hypervisor));
        self
    }

    /// How long a guest may take for anything, two minutes unless told: an
    /// emulated guest on a busy host is slow.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Gives each machine so many virtual processors, instead of one.
    #[must_use]
    pub fn vcpus(mut self, vcpus: u32) -> Self {
        self.vcpus = vcpus;
        self
    }
}
