//! Signalling a container.

use kata_sandbox::{ErrorKind, Signal};

use crate::cli::{Arguments, Globals};
use crate::client;
use crate::failure::{Failure, Result};
use crate::root::Root;
use crate::state::{Record, Status};

/// Signals that end a process that has not been started: `HUP`, `INT`, `QUIT`,
/// `KILL`, `TERM`.
const ENDING: [i32; 5] = [1, 2, 3, 9, 15];

/// Signals by their names, without `SIG`.
const NAMES: [(&str, i32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// The command.
pub(crate) fn kill(globals: &Globals, arguments: &Arguments) -> Result<u8> {
    let record = Root::open(&globals.root)?.load(arguments.argument(0)?)?;
    let text = match arguments.argument(1)? {
        "" => "SIGTERM",
        text => text,
    };
    let signal = parse(text).ok_or_else(|| Failure::new(format!("unknown signal {text:?}")))?;
    let all = arguments.has("all");
    if matches!(record.status(), Status::Stopped | Status::Creating) {
        // Of a container that has ended, every process has been signalled.
        return if all {
            Ok(0)
        } else {
            Err(Failure::not_running())
        };
    }
    if signal == 0 {
        return Ok(0);
    }
    if !(1..=64).contains(&signal) {
        return Err(Failure::new("unable to signal init: invalid argument"));
    }
    if !record.started && ENDING.contains(&signal) {
        let locked = Root::open(&globals.root)?.lock(&record.id)?;
        // Unless it was started since.
        if !locked.record.started {
            client::block_on(end_created(globals, &locked.record))??;
            return Ok(0);
        }
    }
    client::block_on(send(globals, &record, Signal(signal), all))??;
    Ok(0)
}

/// Ends a container whose program has not been started: there is no process yet
/// that a signal could reach.
async fn end_created(globals: &Globals, record: &Record) -> Result<()> {
    if let Some(container) = client::container(globals, record).await? {
        container.delete().await?;
    }
    Ok(())
}

async fn send(globals: &Globals, record: &Record, signal: Signal, all: bool) -> Result<()> {
    let Some(container) = client::container(globals, record).await? else {
        return if all {
            Ok(())
        } else {
            Err(Failure::not_running())
        };
    };
    let sent = match all {
        true => container.kill_all(signal).await,
        false => container.kill(signal).await,
    };
    match sent {
        Ok(()) => Ok(()),
        Err(error) if ended(&error) && all => Ok(()),
        Err(error) if ended(&error) => Err(Failure::not_running()),
        Err(error) => Err(error.into()),
    }
}

/// Whether it ended before the signal came.
fn ended(error: &kata_sandbox::Error) -> bool {
    client::is_gone(error) || error.kind() == ErrorKind::InvalidState
}

/// A signal by number, or by name with `SIG` or without, in any case.
fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_known_by_number_and_by_name() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("term", 15),
            ("99", 99),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for text in ["NONSENSE", "", "SIG", "SIGRTMIN+3", "9 "] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
