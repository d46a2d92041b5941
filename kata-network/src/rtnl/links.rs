//! Links: what `ip link` shows and sets.

use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoMacVtap, LinkAttribute,
    LinkFlags, LinkHeader, LinkInfo, LinkLayerType, LinkMessage, MacVtapMode, Stats64,
};

use super::Rtnl;
use crate::address::MacAddress;

/// A network interface.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `veth`, `macvlan` …; empty for hardware.
    pub(crate) kind: String,
    pub(crate) mac: Option<MacAddress>,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) loopback: bool,
    pub(crate) no_arp: bool,
    pub(crate) ethernet: bool,
    /// The bridge or bond that it is a port of.
    pub(crate) controller: Option<u32>,
    /// The bus of its hardware, and its address there.
    pub(crate) hardware: Option<(String, String)>,
    pub(crate) counters: Stats64,
}

impl Link {
    /// Every interface.
    pub(crate) fn list(rtnl: &mut Rtnl) -> io::Result<Vec<Self>> {
        let listed = rtnl.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        let links = listed.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(Self::of(link)),
            _ => None,
        });
        Ok(links.collect())
    }

    pub(crate) fn of(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            up: flags.contains(LinkFlags::Up),
            loopback: flags.contains(LinkFlags::Loopback),
            no_arp: flags.contains(LinkFlags::Noarp),
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            ..Self::default()
        };
        let (mut bus, mut device) = (None, None);
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(bytes) => {
                    link.mac = bytes.try_into().ok().map(MacAddress::new);
                }
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::ParentDevBusName(name) => bus = Some(name),
                LinkAttribute::ParentDevName(name) => device = Some(name),
                LinkAttribute::Stats64(counters) => link.counters = counters,
                LinkAttribute::LinkInfo(info) => {
                    let kind = info.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                    link.kind = kind.unwrap_or_default();
                }
                _ => {}
            }
        }
        link.hardware = bus.zip(device);
        link
    }

    /// The interface of a name.
    pub(crate) fn find(rtnl: &mut Rtnl, name: &str) -> io::Result<Self> {
        let links = Self::list(rtnl)?;
        let found = links.into_iter().find(|link| link.name == name);
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Removes it.
    pub(crate) fn remove(&self, rtnl: &mut Rtnl) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header = header(self.index);
        rtnl.change(RouteNetlinkMessage::DelLink(message), 0)
    }

    /// Puts a macvtap on it that takes all that it carries.
    pub(crate) fn add_macvtap(&self, rtnl: &mut Rtnl, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        let mode = InfoMacVtap::Mode(MacVtapMode::Passthrough);
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Link(self.index),
            LinkAttribute::Mtu(self.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::MacVtap),
                LinkInfo::Data(InfoData::MacVtap(vec![mode])),
            ]),
        ];
        let make = NLM_F_CREATE | NLM_F_EXCL;
        rtnl.change(RouteNetlinkMessage::NewLink(message), make)
    }

    /// Makes it a port of a bridge, by the bridge's index.
    pub(crate) fn join(&self, rtnl: &mut Rtnl, bridge: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header = header(self.index);
        message.attributes = vec![LinkAttribute::Controller(bridge)];
        rtnl.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Gives it another name. It must be down.
    pub(crate) fn rename(&self, rtnl: &mut Rtnl, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header = header(self.index);
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        rtnl.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Brings it up.
    pub(crate) fn bring_up(&self, rtnl: &mut Rtnl) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header = LinkHeader {
            flags: LinkFlags::Up,
            change_mask: LinkFlags::Up,
            ..header(self.index)
        };
        rtnl.change(RouteNetlinkMessage::SetLink(message), 0)
    }
}

fn header(index: u32) -> LinkHeader {
    LinkHeader {
        index,
        ..LinkHeader::default()
    }
}

/// Brings the host's end of a guest's device up: it carries the guest's packets
/// and speaks for itself never.
pub(crate) fn tap_up(rtnl: &mut Rtnl, index: u32, mtu: u32) -> io::Result<()> {
    let mut silent = LinkMessage::default();
    silent.header = header(index);
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    silent.attributes = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
        vec![mode],
    )])];
    // A host without IPv6 needs no silencing.
    if let Err(error) = rtnl.change(RouteNetlinkMessage::SetLink(silent), 0) {
        log::debug!(error:%; "an interface keeps its IPv6");
    }
    let mut up = LinkMessage::default();
    up.header = LinkHeader {
        flags: LinkFlags::Up,
        change_mask: LinkFlags::Up,
        ..header(index)
    };
    up.attributes = vec![LinkAttribute::Mtu(mtu)];
    rtnl.change(RouteNetlinkMessage::SetLink(up), 0)
}
