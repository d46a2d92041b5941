//! What a command takes, and what it was given.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use crate::failure::{Failure, Result};

/// What kind of value an option has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// None: it is there or not, or `=true`, `=false`.
    Switch,
    /// A text.
    Text,
    /// A text; may be given more than once.
    Texts,
    /// A whole number.
    Number,
    /// A time with its unit, as in `5s` or `1m30s`.
    Duration,
}

/// An option of a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    /// A single letter, or nothing.
    pub(crate) short: &'static str,
    pub(crate) kind: Kind,
    pub(crate) default: &'static str,
    pub(crate) help: &'static str,
}

impl Flag {
    pub(crate) const fn switch(
        name: &'static str,
        short: &'static str,
        help: &'static str,
    ) -> Self {
        Self {
            name,
            short,
            kind: Kind::Switch,
            default: "",
            help,
        }
    }

    pub(crate) const fn of(
        kind: Kind,
        name: &'static str,
        short: &'static str,
        help: &'static str,
    ) -> Self {
        Self {
            name,
            short,
            kind,
            default: "",
            help,
        }
    }

    pub(crate) const fn text(name: &'static str, short: &'static str, help: &'static str) -> Self {
        Self::of(Kind::Text, name, short, help)
    }

    pub(crate) const fn with_default(mut self, value: &'static str) -> Self {
        self.default = value;
        self
    }
}

/// How many arguments a command wants.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Count {
    Exactly(usize),
    AtLeast(usize),
}

/// A command.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// One line.
    pub(crate) summary: &'static str,
    /// What follows the name in its usage.
    pub(crate) arguments: &'static str,
    /// Paragraphs below the usage.
    pub(crate) notes: &'static str,
    pub(crate) description: &'static str,
    pub(crate) flags: &'static [Flag],
    pub(crate) count: Count,
    pub(crate) run: fn(&super::Globals, &Arguments) -> Result<u8>,
}

/// What a command was given.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    pub(super) given: BTreeMap<&'static str, Vec<String>>,
    pub(super) rest: Vec<OsString>,
}

impl Arguments {
    /// Whether a switch is on.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }

    /// The last text given for an option, or its default.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.given.get(name)?.last().map(String::as_str)
    }

    /// An option's text, unless it is empty.
    pub(crate) fn filled(&self, name: &str) -> Option<&str> {
        self.text(name).filter(|text| !text.is_empty())
    }

    /// All that was given for an option.
    pub(crate) fn texts(&self, name: &str) -> &[String] {
        self.given.get(name).map_or(&[], Vec::as_slice)
    }

    /// A number that the parser has checked.
    pub(crate) fn number(&self, name: &str) -> i64 {
        self.text(name).and_then(parse_number).unwrap_or_default()
    }

    /// A time that the parser has checked.
    pub(crate) fn duration(&self, name: &str) -> Option<Duration> {
        self.text(name).and_then(parse_duration)
    }

    /// The argument at `index`, which must be text.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn argument(&self, index: usize) -> Result<&str> {
        let Some(argument) = self.rest.get(index) else {
            return Ok("");
        };
        argument
            .to_str()
            .ok_or_else(|| Failure::new(format!("{argument:?} is not UTF-8")))
    }

    /// The arguments from `index` on.
    ///
    /// # Errors
    /// As [`Arguments::argument`].
    pub(crate) fn arguments(&self, index: usize) -> Result<Vec<String>> {
        (index..self.rest.len())
            .map(|at| self.argument(at).map(str::to_owned))
            .collect()
    }
}

/// A whole number as Go reads one: decimal, or with `0x`, `0o`, `0b`, `0`.
pub(super) fn parse_number(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    i64::from_str_radix(digits, radix).ok()?.checked_mul(sign)
}

/// A time as Go writes one: numbers with units, such as `1m30.5s`.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, length) = unit(rest)?;
        rest = &rest[length..];
        total = total.checked_add(Duration::try_from_secs_f64(number * unit).ok()?)?;
    }
    Some(total)
}

/// The unit at the beginning of a text, in seconds, and its length.
fn unit(text: &str) -> Option<(f64, usize)> {
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("μs", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    let found = UNITS.iter().find(|(name, _)| text.starts_with(name))?;
    Some((found.1, found.0.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        for (text, number) in [("0", 0), ("12", 12), ("-3", -3), ("0x10", 16), ("010", 8)] {
            assert_eq!(parse_number(text), Some(number), "{text}");
        }
        for text in ["", "x", "1.5", "--1", "9999999999999999999"] {
            assert_eq!(parse_number(text), None, "{text}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(parse_duration("5s"), Some(Duration::from_secs(5)));
        assert_eq!(parse_duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("1.5ms"), Some(Duration::from_micros(1500)));
        assert_eq!(parse_duration("0"), Some(Duration::ZERO));
        for text in ["", "5", "s", "-5s", "5x"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
