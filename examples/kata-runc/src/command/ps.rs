//! The processes of a container.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use kata_sandbox::ProcessInfo;

use super::print;
use crate::cli::{Arguments, Globals};
use crate::client;
use crate::failure::{Failure, Result};
use crate::root::Root;
use crate::state::{Record, Status};

const HEAD: &str = "UID        PID  PPID  C STIME TTY          TIME CMD\n";

/// The command. The options of ps(1) after the id, which runc hands to the
/// host's, choose nothing here: the host's cannot see into a guest.
pub(crate) fn ps(globals: &Globals, arguments: &Arguments) -> Result<u8> {
    let record = Root::open(&globals.root)?.load(arguments.argument(0)?)?;
    match arguments.text("format") {
        Some("table") => {
            let processes = client::block_on(processes(globals, &record))??;
            print(&table(&processes, SystemTime::now()))
        }
        Some("json") => print(&json(&record)?),
        _ => Err(Failure::new("invalid format option")),
    }
}

async fn processes(globals: &Globals, record: &Record) -> Result<Vec<ProcessInfo>> {
    if matches!(record.status(), Status::Stopped | Status::Creating) {
        return Ok(Vec::new());
    }
    match client::container(globals, record).await? {
        Some(container) => Ok(container.processes().await?),
        None => Ok(Vec::new()),
    }
}

/// Callers look these ids up on the host: the guest's would be others'.
fn json(record: &Record) -> Result<String> {
    let alive = record.process.filter(|process| process.is_alive());
    let ids: Vec<u32> = alive.iter().map(|process| process.pid).collect();
    let json = serde_json::to_string(&ids).map_err(|e| Failure::new(e.to_string()))?;
    Ok(format!("{json}\n"))
}

/// As `ps -ef` prints it.
fn table(processes: &[ProcessInfo], now: SystemTime) -> String {
    let mut text = HEAD.to_owned();
    for process in processes {
        let command = match process.args.is_empty() {
            true => format!("[{}]", process.name),
            false => process.args.join(" "),
        };
        let user = match process.uid {
            0 => "root".to_owned(),
            uid => uid.to_string(),
        };
        let _ = writeln!(
            text,
            "{user:<8} {:>5} {:>5} {:>2} {} {:<8} {} {command}",
            process.pid,
            process.ppid,
            percent(process, now),
            started(process.started),
            process.tty.as_deref().unwrap_or("?"),
            clock(process.cpu),
        );
    }
    text
}

/// How much of a processor it has had since it began.
fn percent(process: &ProcessInfo, now: SystemTime) -> u128 {
    let age = now.duration_since(process.started).unwrap_or_default();
    let percent = process.cpu.as_millis() * 100;
    percent.checked_div(age.as_millis()).unwrap_or(0).min(99)
}

/// The time of day at which it began.
fn started(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let minutes = seconds / 60;
    format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60)
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}", seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::record;

    #[test]
    fn times_are_told_as_ps_tells_them() {
        assert_eq!(clock(Duration::from_secs(3661)), "01:01:01");
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 + 3660);
        assert_eq!(started(time), "01:01");
        assert_eq!(table(&[], time), HEAD);
        let own = std::process::id();
        assert_eq!(json(&record()).unwrap(), format!("[{own}]\n"));
    }
}
