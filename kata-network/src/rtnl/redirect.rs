//! Everything that comes in through one link goes out through another: what
//! `tc filter add dev A ingress … action mirred egress redirect dev B` sets.

use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionGeneric, TcActionMirror, TcActionMirrorOption,
    TcActionOption, TcActionType, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcHeader,
    TcMessage, TcMirror, TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};
use rustix::io::Errno;

use super::Rtnl;

/// Our filters' priority: by it they are told from others' after a crash.
const PRIORITY: u16 = 0x4b41;
/// `ETH_P_ALL` of `linux/if_ether.h`.
const EVERY_PROTOCOL: u16 = 3;
/// What the kernel calls the discipline for packets that come in.
const QDISC: &str = "ingress";
/// The number of the queueing discipline in which ingress filters are.
const INGRESS: TcHandle = TcHandle {
    major: u16::MAX,
    minor: 0,
};

/// Sends on through `to` whatever comes in through `from`.
pub(crate) fn redirect(rtnl: &mut Rtnl, from: u32, to: u32) -> io::Result<()> {
    let mut qdisc = TcMessage::default();
    qdisc.header = header(from, TcHandle::INGRESS)?;
    qdisc.header.handle = INGRESS;
    qdisc.attributes = vec![TcAttribute::Kind(QDISC.to_owned())];
    let make = NLM_F_CREATE | NLM_F_EXCL;
    rtnl.change(RouteNetlinkMessage::NewQueueDiscipline(qdisc), make)?;

    let mut filter = TcMessage::default();
    filter.header = header(from, INGRESS)?;
    filter.header.info = u32::from(PRIORITY) << 16 | u32::from(EVERY_PROTOCOL.to_be());
    filter.attributes = vec![
        TcAttribute::Kind(TcFilterU32::KIND.to_owned()),
        TcAttribute::Options(vec![
            TcOption::U32(TcFilterU32Option::Selector(everything())),
            TcOption::U32(TcFilterU32Option::Action(vec![to_link(to)])),
        ]),
    ];
    rtnl.change(RouteNetlinkMessage::NewTrafficFilter(filter), make)
}

/// Matches every packet: no bit of the first word is looked at.
fn everything() -> TcU32Selector {
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = 1;
    selector.keys = vec![TcU32Key::default()];
    selector
}

fn to_link(index: u32) -> TcAction {
    let mut generic = TcActionGeneric::default();
    generic.action = TcActionType::Stolen;
    let mut mirror = TcMirror::default();
    mirror.generic = generic;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = index;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(
            mirror,
        ))]),
    ];
    action
}

pub(super) fn header(index: u32, parent: TcHandle) -> io::Result<TcHeader> {
    let index = i32::try_from(index).map_err(|_| io::Error::from(Errno::NODEV))?;
    Ok(TcHeader {
        index,
        parent,
        ..TcHeader::default()
    })
}

/// Whether packets that come in through a link are redirected by us.
fn is_ours(rtnl: &mut Rtnl, index: u32) -> io::Result<bool> {
    let mut all = TcMessage::default();
    all.header = header(index, INGRESS)?;
    let listed = match rtnl.dump(&RouteNetlinkMessage::GetTrafficFilter(all)) {
        // There is no such discipline.
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            return Ok(false);
        }
        listed => listed?,
    };
    Ok(listed.iter().any(|message| {
        matches!(message, RouteNetlinkMessage::NewTrafficFilter(filter)
            if filter.header.info >> 16 == u32::from(PRIORITY))
    }))
}

/// Takes back what [`redirect`] set for a link, if it did.
pub(crate) fn undo_redirect(rtnl: &mut Rtnl, index: u32) -> io::Result<()> {
    if !is_ours(rtnl, index)? {
        return Ok(());
    }
    let mut qdisc = TcMessage::default();
    qdisc.header = header(index, TcHandle::INGRESS)?;
    qdisc.header.handle = INGRESS;
    rtnl.change(RouteNetlinkMessage::DelQueueDiscipline(qdisc), 0)
}
