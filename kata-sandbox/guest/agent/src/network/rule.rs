//! Rules that say which routing table is looked at (`ip-rule(8)`).

use std::io;

use kata_protocol::ttrpc::Status;
use kata_protocol::types::{IpFamily, Rule};

use super::prefix::{Prefix, family_of, octets};
use crate::netlink::{Attributes, Request, Verb, u32_at};
use crate::service::{internal, invalid};

const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const GET_RULE: u16 = 34;
/// Bytes of `struct fib_rule_hdr`.
const FIXED: usize = 12;

const DESTINATION: u16 = 1;
const SOURCE: u16 = 2;
const INPUT: u16 = 3;
const PRIORITY: u16 = 6;
const MARK: u16 = 10;
const SUPPRESS_PREFIX: u16 = 14;
const TABLE: u16 = 15;
const MASK: u16 = 16;
const OUTPUT: u16 = 17;

/// The action that looks at a table.
const LOOK: u8 = 1;
const INVERT: u32 = 2;
/// Those that every kernel makes: local, main, default.
const BY_KERNEL: [u32; 3] = [0, 32_766, 32_767];

/// Makes `wanted` the rules beside the kernel's own. With none wanted, those
/// that are there stay.
pub(crate) fn update(wanted: &[Rule]) -> Result<(), Status> {
    if wanted.is_empty() {
        return Ok(());
    }
    let new = wanted.iter().map(request).collect::<Result<Vec<_>, _>>()?;
    for old in replaceable().map_err(internal("list the rules"))? {
        Request::new(DELETE_RULE, Verb::Change, &old)
            .send()
            .map_err(internal("remove an old rule"))?;
    }
    for (request, rule) in new.into_iter().zip(wanted) {
        let what = format!("add the rule of priority {}", rule.priority);
        request.send().map_err(internal(&what))?;
    }
    Ok(())
}

/// Bodies of the rules beside the kernel's own.
fn replaceable() -> io::Result<Vec<Vec<u8>>> {
    let mut all = Request::new(GET_RULE, Verb::Dump, &[0; FIXED]).send()?;
    all.retain(|body| {
        let attributes = Attributes(body.get(FIXED..).unwrap_or_default());
        let priority = attributes
            .filter(|(kind, _)| *kind == PRIORITY)
            .find_map(|(_, value)| u32_at(value, 0));
        body.len() >= FIXED && !BY_KERNEL.contains(&priority.unwrap_or(0))
    });
    Ok(all)
}

fn request(rule: &Rule) -> Result<Request, Status> {
    let v6 = rule.family == IpFamily::V6 as i32;
    let family = family_of(Prefix::everything(v6).address);
    let prefix = |text: &str| match text {
        "" => Ok(None),
        text => match Prefix::destination(text, v6) {
            Some(prefix) if family_of(prefix.address) == family => Ok(Some(prefix)),
            _ => Err(invalid(format!(
                "{text:?} is no network of the rule's family"
            ))),
        },
    };
    let (source, destination) = (prefix(&rule.source)?, prefix(&rule.destination)?);
    let action = match u8::try_from(rule.refuse) {
        Ok(0) => LOOK,
        Ok(action @ 6..=8) => action,
        _ => {
            return Err(invalid(format!(
                "{} is nothing that a rule does",
                rule.refuse
            )));
        }
    };
    let length = |prefix: &Option<Prefix>| prefix.map_or(0, |prefix| prefix.length);
    let mut fixed = [0; FIXED];
    fixed[..3].copy_from_slice(&[family, length(&destination), length(&source)]);
    fixed[7] = action;
    let flags = if rule.invert { INVERT } else { 0 };
    fixed[8..].copy_from_slice(&flags.to_ne_bytes());
    let bytes = |prefix: Option<Prefix>| prefix.map(|prefix| octets(prefix.address));
    let name = |name: &str| (!name.is_empty()).then(|| [name.as_bytes(), b"\0"].concat());
    let number = |number: Option<u32>| number.map(|number| number.to_ne_bytes().to_vec());
    let table = (action == LOOK).then_some(rule.table);
    let mask = rule.mark.map(|_| rule.mask);
    Ok(Request::new(NEW_RULE, Verb::Append, &fixed)
        .attribute(PRIORITY, &rule.priority.to_ne_bytes())
        .optional(DESTINATION, bytes(destination).as_deref())
        .optional(SOURCE, bytes(source).as_deref())
        .optional(INPUT, name(&rule.input).as_deref())
        .optional(OUTPUT, name(&rule.output).as_deref())
        .optional(MARK, number(rule.mark).as_deref())
        .optional(MASK, number(mask).as_deref())
        .optional(SUPPRESS_PREFIX, number(rule.suppress_prefix).as_deref())
        .optional(TABLE, number(table).as_deref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_makes_no_sense_is_refused_by_reason() {
        let refused = |rule: Rule| request(&rule).unwrap_err().message;
        let mixed = Rule {
            source: "fd00::/64".into(),
            ..Rule::default()
        };
        assert!(refused(mixed).contains("fd00::/64"));
        let odd = Rule {
            refuse: 5,
            ..Rule::default()
        };
        assert!(refused(odd).contains("5 is nothing"));
    }
}
