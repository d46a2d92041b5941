//! Reading options as Go's flag package does, which runc's callers rely on: one
//! dash or two, `-name value` or `-name=value`, and no option after the first
//! argument.

use std::ffi::OsString;

use super::flags::{Arguments, Flag, Kind, parse_duration, parse_number};

/// What reading came to.
#[derive(Debug)]
pub(super) enum Parsed {
    Arguments(Arguments),
    /// `--help` or `-h` was asked for.
    Help,
    /// The words of what is wrong, as Go says them.
    Wrong(String),
}

pub(super) fn parse(flags: &'static [Flag], words: Vec<OsString>) -> Parsed {
    let mut arguments = Arguments::default();
    for flag in flags.iter().filter(|flag| !flag.default.is_empty()) {
        arguments
            .given
            .insert(flag.name, vec![flag.default.to_owned()]);
    }
    let mut defaulted: Vec<&str> = arguments.given.keys().copied().collect();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let option = word.to_str().and_then(option_of);
        let Some((name, value)) = option else {
            if word != "--" {
                arguments.rest.push(word);
            }
            break;
        };
        if name.starts_with(['-', '=']) || name.is_empty() {
            return Parsed::Wrong(format!("bad flag syntax: {}", word.display()));
        }
        let found = flags
            .iter()
            .find(|flag| flag.name == name || (flag.short == name && !flag.short.is_empty()));
        let Some(flag) = found else {
            if matches!(name, "help" | "h") {
                return Parsed::Help;
            }
            return Parsed::Wrong(format!("flag provided but not defined: -{name}"));
        };
        let value = match (value, flag.kind) {
            (Some(value), _) => value.to_owned(),
            (None, Kind::Switch) => "true".to_owned(),
            (None, _) => match words.next().map(OsString::into_string) {
                Some(Ok(value)) => value,
                Some(Err(value)) => return wrong_value(flag, name, &value.to_string_lossy()),
                None => return Parsed::Wrong(format!("flag needs an argument: -{name}")),
            },
        };
        let Some(value) = checked(flag.kind, &value) else {
            return wrong_value(flag, name, &value);
        };
        if let Some(at) = defaulted.iter().position(|given| *given == flag.name) {
            defaulted.swap_remove(at);
            arguments.given.remove(flag.name);
        }
        arguments.given.entry(flag.name).or_default().push(value);
    }
    arguments.rest.extend(words);
    Parsed::Arguments(arguments)
}

/// The name and the value after `=` of a word that is an option.
fn option_of(word: &str) -> Option<(&str, Option<&str>)> {
    let name = match word.strip_prefix("--") {
        Some("") => return None,
        Some(name) => name,
        None => word.strip_prefix('-').filter(|name| !name.is_empty())?,
    };
    match name.split_once('=') {
        Some((name, value)) if !name.is_empty() => Some((name, Some(value))),
        _ => Some((name, None)),
    }
}

/// The value in its usual form, if it is one of that kind.
fn checked(kind: Kind, value: &str) -> Option<String> {
    let good = match kind {
        Kind::Switch => return switch(value).map(|on| on.to_string()),
        Kind::Text | Kind::Texts => true,
        Kind::Number => parse_number(value).is_some(),
        Kind::Duration => parse_duration(value).is_some(),
    };
    good.then(|| value.to_owned())
}

fn switch(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn wrong_value(flag: &Flag, name: &str, value: &str) -> Parsed {
    Parsed::Wrong(match flag.kind {
        Kind::Switch => format!("invalid boolean value {value:?} for -{name}: parse error"),
        _ => format!("invalid value {value:?} for flag -{name}: parse error"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag::text("bundle", "b", ""),
        Flag::switch("keep", "", ""),
        Flag::of(Kind::Number, "preserve-fds", "", "").with_default("0"),
        Flag::of(Kind::Texts, "env", "e", ""),
        Flag::of(Kind::Duration, "interval", "", "").with_default("5s"),
    ];

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn arguments(text: &str) -> Arguments {
        match parse(FLAGS, words(text)) {
            Parsed::Arguments(arguments) => arguments,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn wrong(text: &str) -> String {
        match parse(FLAGS, words(text)) {
            Parsed::Wrong(text) => text,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn options_have_one_dash_or_two_and_a_value_after_a_space_or_a_sign() {
        for text in ["--bundle /x c", "-bundle /x c", "-b /x c", "--b=/x c"] {
            let arguments = arguments(text);
            assert_eq!(arguments.text("bundle"), Some("/x"), "{text}");
            assert_eq!(arguments.argument(0).unwrap(), "c", "{text}");
        }
    }

    #[test]
    fn options_end_at_the_first_argument_or_at_two_dashes() {
        let given = arguments("--keep c --keep -x");
        assert_eq!(given.arguments(0).unwrap(), ["c", "--keep", "-x"]);
        let given = arguments("-- -x");
        assert!(!given.has("keep"));
        assert_eq!(given.arguments(0).unwrap(), ["-x"]);
        assert_eq!(arguments("-").arguments(0).unwrap(), ["-"]);
    }

    #[test]
    fn what_is_given_replaces_the_default_and_lists_grow() {
        assert_eq!(arguments("c").number("preserve-fds"), 0);
        assert_eq!(arguments("--preserve-fds 3 c").number("preserve-fds"), 3);
        assert_eq!(arguments("-e A=1 --env B=2").texts("env"), ["A=1", "B=2"]);
        assert!(!arguments("--keep=false").has("keep"));
        let interval = arguments("--interval 100ms").duration("interval");
        assert_eq!(interval, Some(std::time::Duration::from_millis(100)));
    }

    #[test]
    fn what_is_wrong_is_said_in_gos_words() {
        assert_eq!(wrong("--nope"), "flag provided but not defined: -nope");
        assert_eq!(wrong("--bundle"), "flag needs an argument: -bundle");
        assert_eq!(
            wrong("--keep=maybe"),
            "invalid boolean value \"maybe\" for -keep: parse error"
        );
        assert_eq!(
            wrong("--preserve-fds abc"),
            "invalid value \"abc\" for flag -preserve-fds: parse error"
        );
        assert_eq!(wrong("---x"), "bad flag syntax: ---x");
    }

    #[test]
    fn help_can_be_asked_for_anywhere_among_the_options() {
        assert!(matches!(parse(FLAGS, words("--keep -h")), Parsed::Help));
        assert!(matches!(parse(FLAGS, words("--help")), Parsed::Help));
    }
}
