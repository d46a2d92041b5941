//! What a sandbox's devices are joined to, while it lives.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::address::MacAddress;
use crate::endpoint::{Attachment, Endpoint};
use crate::error::{Error, Result};
use crate::rtnl::Link;
use crate::tap;

/// A link that a device of a sandbox is joined to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    /// Its name, in the guest too.
    pub(crate) name: String,
    /// A link of the same name that came later has another.
    pub(crate) index: u32,
    /// The hardware address that the guest was told last.
    pub(crate) mac: MacAddress,
}

impl Joined {
    /// Whether it is this link.
    pub(crate) fn is(&self, link: &Link) -> bool {
        self.index == link.index && self.name == link.name
    }
}

/// A tap that was made before the link that it will be joined to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reserved {
    /// Its name until then.
    pub(crate) tap: String,
    /// The hardware address of the device that has it.
    pub(crate) mac: MacAddress,
}

impl Reserved {
    /// The sandbox's taps of that number: with names that no link's index
    /// leads to, and addresses that differ within a machine.
    pub(crate) fn of(sandbox: &str, count: usize) -> Vec<Self> {
        let numbers = (0..count).filter_map(|number| u32::try_from(number).ok());
        let each = numbers.map(|number| Self {
            tap: crate::wiring::reserved_name(number),
            mac: local_address(sandbox, number),
        });
        each.collect()
    }
}

/// Opens the taps that are reserved, in the calling thread's namespace.
pub(crate) fn open_reserved(reserved: &[Reserved], queues: usize) -> Result<Vec<Endpoint>> {
    let open = |reserved: &Reserved| {
        let name = &reserved.tap;
        let opened = tap::open(name, queues);
        let taps = opened.map_err(Error::host(format!("make the tap {name}")))?;
        // Any packet that the interface may come to take.
        let mtu = u16::MAX.into();
        Ok(Endpoint::new(Attachment::Tap(taps), reserved.mac, mtu))
    };
    reserved.iter().map(open).collect()
}

/// A locally administered address of a single card: FNV-1a of what it is for.
fn local_address(sandbox: &str, number: u32) -> MacAddress {
    let bytes = sandbox.bytes().chain(number.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [a, b, c, d, e, ..] = hash.to_be_bytes();
    MacAddress::new([0x02, a, b, c, d, e])
}

/// What a sandbox's devices are joined to, and those that are joined to nothing
/// yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connection {
    pub(crate) joined: Vec<Joined>,
    pub(crate) reserved: VecDeque<Reserved>,
}

/// The connections of sandboxes. One piece of work at a time: a tear-down waits
/// for the end of a set-up that was given up.
#[derive(Debug, Default)]
pub(crate) struct Connections(Mutex<HashMap<String, Connection>>);

impl Connections {
    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<String, Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_taps_differ_in_name_and_address() {
        let reserved = Reserved::of("s", 3);
        assert_eq!(reserved[0].tap, "kata4294967295");
        assert_eq!(reserved[2].tap, "kata4294967293");
        assert_ne!(reserved[0].mac, reserved[1].mac);
        assert_ne!(reserved[0].mac, Reserved::of("t", 1)[0].mac);
        assert_eq!(reserved[0].mac.bytes()[0], 2);
    }
}
