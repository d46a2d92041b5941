//! Spare ports of the PCI Express root, and who is in them.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Ports for one kind of device.
#[derive(Debug, Default)]
pub(super) struct Ports {
    /// What goes into them, such as `disk`: the field of errors.
    what: &'static str,
    /// The number of the first.
    first: u32,
    count: u32,
    taken: BTreeMap<u32, String>,
    /// Devices of that kind that are there from the start.
    fixed: Vec<String>,
}

impl Ports {
    pub(super) fn new(what: &'static str, first: u32, count: u32, fixed: Vec<String>) -> Self {
        Self {
            what,
            first,
            count,
            taken: BTreeMap::new(),
            fixed,
        }
    }

    fn wrong(&self, reason: String) -> Error {
        Error::InvalidConfig {
            field: self.what,
            reason,
        }
    }

    /// Takes a port for a device.
    pub(super) fn take(&mut self, id: &str) -> Result<u32> {
        let what = self.what;
        let mut all = self.fixed.iter().chain(self.taken.values());
        if all.any(|it| it == id) {
            return Err(self.wrong(format!("the machine has a {what} {id:?}")));
        }
        let mut numbers = self.first..self.first + self.count;
        let free = numbers.find(|number| !self.taken.contains_key(number));
        let port = free.ok_or_else(|| {
            let count = self.count;
            self.wrong(format!("the machine has {count} spare {what}s, all in use"))
        })?;
        self.taken.insert(port, id.to_owned());
        Ok(port)
    }

    pub(super) fn free(&mut self, id: &str) {
        self.taken.retain(|_, taken| taken != id);
    }

    /// The port that a device is in.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when it is in none.
    pub(super) fn port_of(&self, id: &str) -> Result<u32> {
        let mut taken = self.taken.iter();
        let found = taken.find_map(|(port, taken)| (taken == id).then_some(*port));
        found.ok_or_else(|| self.wrong(format!("no {} {id:?} was attached", self.what)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_taken_once_and_free_again_afterwards() {
        let mut ports = Ports::new("disk", 3, 2, vec!["root".into()]);
        assert_eq!(ports.take("a").unwrap(), 3);
        assert_eq!(ports.take("b").unwrap(), 4);
        let full = ports.take("c").unwrap_err().to_string();
        assert!(full.contains("2 spare disks"), "{full}");
        ports.free("a");
        assert!(ports.port_of("a").is_err());
        assert_eq!(ports.take("c").unwrap(), 3);
        assert_eq!(ports.port_of("c").unwrap(), 3);
        for there in ["b", "root"] {
            let twice = ports.take(there).unwrap_err().to_string();
            assert!(twice.contains(there), "{twice}");
        }
    }
}
