//! Rules beside the three that every kernel makes.

use std::io;
use std::net::IpAddr;

use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use crate::address::IpNet;
use crate::guest::{RouteKind, Rule};
use crate::rtnl::Rtnl;

/// Priorities of the rules that every kernel makes: local, main, default.
const BY_KERNEL: [u32; 3] = [0, 32_766, 32_767];

pub(super) fn list(rtnl: &mut Rtnl) -> io::Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RuleMessage::default();
        message.header.family = family;
        let listed = match rtnl.dump(&RouteNetlinkMessage::GetRule(message)) {
            // A kernel without policy routing, or without the family.
            Err(error) if is_unsupported(&error) => continue,
            listed => listed?,
        };
        rules.extend(listed.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewRule(message) => of(&message),
            _ => None,
        }));
    }
    Ok(rules)
}

fn is_unsupported(error: &io::Error) -> bool {
    let unsupported = [Errno::OPNOTSUPP, Errno::AFNOSUPPORT];
    unsupported
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The rule of a message, if it is one that the guest needs to be told.
pub(super) fn of(message: &RuleMessage) -> Option<Rule> {
    let header = &message.header;
    let mut rule = Rule {
        ipv6: header.family == AddressFamily::Inet6,
        invert: header.flags.contains(RuleFlags::Invert),
        refuse: match header.action {
            RuleAction::Blackhole => Some(RouteKind::Blackhole),
            RuleAction::Unreachable => Some(RouteKind::Unreachable),
            RuleAction::Prohibit => Some(RouteKind::Prohibit),
            RuleAction::ToTable => None,
            // Jumps between rules, and rules that do nothing.
            _ => return None,
        },
        ..Rule::default()
    };
    let mut table = u32::from(header.table);
    let (mut mark, mut mask) = (None, u32::MAX);
    let net = |address: &IpAddr, length| IpNet::new(*address, length);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Source(address) => rule.source = net(address, header.src_len),
            RuleAttribute::Destination(address) => rule.destination = net(address, header.dst_len),
            RuleAttribute::Iifname(name) => rule.input = Some(name.clone()),
            RuleAttribute::Oifname(name) => rule.output = Some(name.clone()),
            RuleAttribute::FwMark(it) => mark = Some(*it),
            RuleAttribute::FwMask(it) => mask = *it,
            // All ones is the kernel's way of saying that there is none.
            RuleAttribute::SuppressPrefixLen(length) if *length != u32::MAX => {
                rule.suppress_prefix = Some(*length);
            }
            _ => {}
        }
    }
    rule.mark = mark.map(|mark| (mark, mask));
    rule.table = rule.refuse.is_none().then_some(table);
    let by_kernel = BY_KERNEL.contains(&rule.priority) && is_plain(&rule);
    (!by_kernel).then_some(rule)
}

/// Whether it is for every packet.
fn is_plain(rule: &Rule) -> bool {
    let plain = Rule {
        ipv6: rule.ipv6,
        priority: rule.priority,
        table: rule.table,
        ..Rule::default()
    };
    *rule == plain
}
