//! Links: what `ip link` shows and sets.

use std::io;

use kata_protocol::agent::NetworkStats;

use crate::netlink::{Attributes, Request, Verb, u32_at};

const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
/// Bytes of `struct ifinfomsg`.
const FIXED: usize = 16;

const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const LINK_INFO: u16 = 18;
const LINK_INFO_KIND: u16 = 1;
const STATS64: u16 = 23;

/// The interface is up.
pub(super) const IFF_UP: u32 = 0x1;
/// The interface resolves no addresses.
pub(super) const IFF_NOARP: u32 = 0x80;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) flags: u32,
    pub(super) name: String,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) mtu: u32,
    /// `veth`, `dummy` …; empty for hardware.
    pub(super) kind: String,
    pub(super) counters: Option<NetworkStats>,
}

/// Every interface.
pub(super) fn list() -> io::Result<Vec<Link>> {
    let bodies = Request::new(GET_LINK, Verb::Dump, &[0; FIXED]).send()?;
    Ok(bodies.iter().filter_map(|body| parse(body)).collect())
}

fn parse(body: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: u32_at(body, 4)?,
        flags: u32_at(body, 8)?,
        ..Link::default()
    };
    for (kind, value) in Attributes(body.get(FIXED..)?) {
        match kind {
            ADDRESS => link.mac = value.try_into().ok(),
            NAME => link.name = text(value),
            MTU => link.mtu = u32_at(value, 0).unwrap_or_default(),
            LINK_INFO => {
                let kind = Attributes(value).find(|(kind, _)| *kind == LINK_INFO_KIND);
                link.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            STATS64 => link.counters = counters(value),
            _ => {}
        }
    }
    if let Some(counters) = &mut link.counters {
        counters.name.clone_from(&link.name);
    }
    Some(link)
}

/// The first fields of `struct rtnl_link_stats64`.
fn counters(value: &[u8]) -> Option<NetworkStats> {
    let field = |index: usize| Some(u64::from_ne_bytes(*value.get(index * 8..)?.first_chunk()?));
    Some(NetworkStats {
        name: String::new(),
        rx_packets: field(0)?,
        tx_packets: field(1)?,
        rx_bytes: field(2)?,
        tx_bytes: field(3)?,
        rx_errors: field(4)?,
        tx_errors: field(5)?,
        rx_dropped: field(6)?,
        tx_dropped: field(7)?,
    })
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value)).into_owned()
}

/// A change of a link; what is not set stays as it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Change<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) mtu: Option<u32>,
    pub(super) mac: Option<[u8; 6]>,
    /// Flags to set or clear, and their values.
    pub(super) flags: Option<(u32, u32)>,
}

impl Change<'_> {
    /// Up.
    pub(super) fn up() -> Self {
        Self {
            flags: Some((IFF_UP, IFF_UP)),
            ..Self::default()
        }
    }

    /// Down.
    pub(super) fn down() -> Self {
        Self {
            flags: Some((IFF_UP, 0)),
            ..Self::default()
        }
    }

    /// Applies this to the interface of an index.
    pub(super) fn of_index(&self, index: u32) -> io::Result<()> {
        self.request(index).send().map(drop)
    }

    /// Applies this to the interface of a name.
    pub(super) fn of_name(&self, name: &str) -> io::Result<()> {
        self.request(0)
            .attribute(NAME, &zero_ended(name))
            .send()
            .map(drop)
    }

    fn request(&self, index: u32) -> Request {
        let (change, flags) = self.flags.unwrap_or_default();
        let mut fixed = [0; FIXED];
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
        fixed[12..16].copy_from_slice(&change.to_ne_bytes());
        let mtu = self.mtu.map(u32::to_ne_bytes);
        Request::new(SET_LINK, Verb::Change, &fixed)
            .optional(NAME, self.name.map(zero_ended).as_deref())
            .optional(MTU, mtu.as_ref().map(<[u8; 4]>::as_slice))
            .optional(ADDRESS, self.mac.as_ref().map(<[u8; 6]>::as_slice))
    }
}

fn zero_ended(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// Reads `52:54:00:12:34:56`.
pub(super) fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts
            .next()
            .filter(|part| part.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// Writes what [`parse_mac`] reads.
pub(super) fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_is_read_and_written() {
        let mac = [0x52, 0x54, 0, 0x12, 0xab, 0xff];
        assert_eq!(parse_mac(&format_mac(mac)), Some(mac));
        assert_eq!(parse_mac("52:54:00:12:34"), None);
        assert_eq!(parse_mac("52:54:00:12:34:56:78"), None);
        assert_eq!(parse_mac("+1:54:00:12:34:5"), None);
    }

    #[test]
    fn the_loopback_interface_has_counters_of_its_name() {
        let lo = list()
            .unwrap()
            .into_iter()
            .find(|link| link.name == "lo")
            .unwrap();
        assert_eq!(lo.counters.unwrap().name, "lo");
    }
}
