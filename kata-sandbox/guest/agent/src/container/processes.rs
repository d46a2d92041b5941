//! Listing a container's processes, as ps(1) would.
//!
//! What a process's files in `/proc` say is partly its own to choose (its name,
//! its command line), and reading the command line reads its memory, which it
//! may keep anyone waiting for. So all of it is read in a copy of the agent, and
//! cut to what fits an answer.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kata_protocol::agent::{ListProcessesRequest, ListProcessesResponse, ProcessEntry};
use kata_protocol::ttrpc::{Code, Status};
use prost::Message as _;
use rustix::process::Pid;
use rustix::time::{ClockId, clock_gettime};

use super::Containers;
use crate::process::Task;

/// The most processes that are listed.
const PROCESSES: usize = 16_384;
/// What is read of one command line, in bytes.
const COMMAND: usize = 4096;
/// What is read of all of them: an answer has at most 4 MiB.
const COMMANDS: usize = 1 << 20;

impl Containers {
    /// What processes a container has now.
    ///
    /// # Errors
    /// When there is no such container.
    pub(crate) async fn processes(
        &self,
        request: ListProcessesRequest,
    ) -> Result<ListProcessesResponse, Status> {
        let container = self.find(&request.container_id)?;
        let mut pids = container.cgroup.processes()?;
        pids.sort_unstable_by_key(|pid| pid.as_raw_nonzero());
        pids.dedup();
        let truncated = pids.len() > PROCESSES;
        pids.truncate(PROCESSES);
        let work = || {
            let processes = list(&pids);
            Ok(ListProcessesResponse {
                processes,
                truncated,
            }
            .encode_to_vec())
        };
        let answer = Task::start(&[], work)?.result().await?;
        ListProcessesResponse::decode(answer.as_slice())
            .map_err(|error| Status::new(Code::Internal, format!("list processes: {error}")))
    }
}

fn list(pids: &[Pid]) -> Vec<ProcessEntry> {
    let clock = Clock::now();
    let mut budget = COMMANDS;
    let entry = |pid: &Pid| entry(*pid, clock, &mut budget);
    // Those that are gone are nobody's business.
    pids.iter().filter_map(entry).collect()
}

fn entry(pid: Pid, clock: Clock, budget: &mut usize) -> Option<ProcessEntry> {
    let directory = PathBuf::from(format!("/proc/{pid}"));
    // Its files belong to its effective user; where it hides its memory, to root.
    let mut entry = read_stat(&read(&directory.join("stat"), COMMAND)?, clock)?;
    let status = read(&directory.join("status"), 2 * COMMAND)?;
    let status = String::from_utf8_lossy(&status);
    entry.uid = column(&status, "Uid:", 1).or_else(|| owner(&directory))?;
    entry.container_pid = last(&status, "NSpid:").unwrap_or(entry.pid);
    let command = read(&directory.join("cmdline"), COMMAND.min(*budget)).unwrap_or_default();
    *budget -= command.len();
    entry.args = arguments(&command);
    Some(entry)
}

/// No more than `limit` bytes of a file; `None` when there is no such process.
fn read(path: &Path, limit: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .ok()?;
    Some(bytes)
}

fn owner(directory: &Path) -> Option<u32> {
    Some(directory.metadata().ok()?.uid())
}

/// Number `at` of a line of `status`.
fn column(status: &str, name: &str, at: usize) -> Option<u32> {
    numbers(status, name)?.nth(at)
}

fn last(status: &str, name: &str) -> Option<u32> {
    numbers(status, name)?.last()
}

fn numbers<'a>(status: &'a str, name: &str) -> Option<impl Iterator<Item = u32> + 'a> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().map_while(|word| word.parse().ok()))
}

/// Ended by NUL bytes each; a program may have written over them.
fn arguments(command: &[u8]) -> Vec<String> {
    let command = command.strip_suffix(b"\0").unwrap_or(command);
    if command.is_empty() {
        return Vec::new();
    }
    let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
    command.split(|byte| *byte == 0).map(text).collect()
}

/// What turns the kernel's ticks into times.
#[derive(Clone, Copy, Debug)]
struct Clock {
    per_second: u64,
    /// When the machine started: milliseconds since 1970.
    started: u64,
}

impl Clock {
    fn now() -> Self {
        let milliseconds = |clock| {
            let now = clock_gettime(clock);
            let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
            seconds * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
        };
        Self {
            per_second: rustix::param::clock_ticks_per_second().max(1),
            started: milliseconds(ClockId::Realtime)
                .saturating_sub(milliseconds(ClockId::Boottime)),
        }
    }

    fn milliseconds(self, ticks: u64) -> u64 {
        ticks.saturating_mul(1000) / self.per_second
    }
}

/// A line of `/proc/<pid>/stat` (proc_pid_stat(5)). The name stands between the
/// first opening and the last closing parenthesis and may itself hold any.
fn read_stat(line: &[u8], clock: Clock) -> Option<ProcessEntry> {
    let open = line.iter().position(|byte| *byte == b'(')?;
    let close = line.iter().rposition(|byte| *byte == b')')?;
    let pid = std::str::from_utf8(line.get(..open)?).ok()?.trim();
    let name = String::from_utf8_lossy(line.get(open + 1..close)?);
    let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
    // The first of them is field 3 of the manual page.
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    let number = |at: usize| field(at)?.parse::<u64>().ok();
    let ticks = number(14)?.saturating_add(number(15)?);
    let pages = number(24).unwrap_or(0);
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    Some(ProcessEntry {
        pid: pid.parse().ok()?,
        ppid: field(4)?.parse().ok()?,
        name: name.into_owned(),
        state: field(3)?.to_owned(),
        tty: field(7)
            .and_then(|device| device.parse().ok())
            .map(terminal)
            .unwrap_or_default(),
        cpu_time_ms: clock.milliseconds(ticks),
        threads: field(20)?.parse().ok()?,
        start_time_ms: clock
            .started
            .saturating_add(clock.milliseconds(number(22)?)),
        rss: pages.saturating_mul(page),
        ..ProcessEntry::default()
    })
}

/// The name below `/dev` of a terminal's device number.
fn terminal(device: i32) -> String {
    let device = device.cast_unsigned();
    let major = device >> 8 & 0xfff;
    let minor = device & 0xff | device >> 12 & 0xf_ff00;
    match (major, minor) {
        (0, 0) => String::new(),
        // Eight numbers for pseudoterminals, 256 of each.
        (136..=143, _) => format!("pts/{}", (major - 136) * 256 + minor),
        (4, 0..=63) => format!("tty{minor}"),
        (4, _) => format!("ttyS{}", minor - 64),
        (5, 1) => "console".into(),
        (229, _) => format!("hvc{minor}"),
        _ => format!("{major}:{minor}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: Clock = Clock {
        per_second: 100,
        started: 1_000_000,
    };

    const LINE: &str = "42 (a) R) (b) S 7 42 42 34816 42 4194560 1 0 0 0 150 50 0 0 20 0 3 0 \
                        200 4096 25 18446744073709551615";

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let entry = read_stat(LINE.as_bytes(), CLOCK).unwrap();
        assert_eq!(entry.name, "a) R) (b");
        assert_eq!((entry.pid, entry.ppid, entry.threads), (42, 7, 3));
        assert_eq!((entry.state.as_str(), entry.tty.as_str()), ("S", "pts/0"));
        assert_eq!((entry.cpu_time_ms, entry.start_time_ms), (2000, 1_002_000));
        assert_eq!(
            entry.rss,
            25 * u64::try_from(rustix::param::page_size()).unwrap()
        );
    }

    #[test]
    fn terminals_have_the_names_that_ps_shows() {
        let names = [0, 34_816, 34_817, 35_072, 1025, 1088, 1281].map(terminal);
        assert_eq!(
            names,
            ["", "pts/0", "pts/1", "pts/256", "tty1", "ttyS0", "console"]
        );
    }

    #[test]
    fn a_command_line_is_split_at_its_nul_bytes() {
        assert_eq!(arguments(b"sh\0-c\0\0"), ["sh", "-c", ""]);
        assert_eq!(arguments(b"nginx: master"), ["nginx: master"]);
        assert!(arguments(b"").is_empty());
    }

    #[test]
    fn this_process_is_as_it_is() {
        let entry = entry(rustix::process::getpid(), Clock::now(), &mut 4096).unwrap();
        assert_eq!(entry.uid, rustix::process::geteuid().as_raw());
        let args: Vec<_> = std::env::args().collect();
        assert_eq!(entry.args, args);
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let age = now.as_millis() - u128::from(entry.start_time_ms);
        assert!(age < 3_600_000, "{age}");
    }

    #[test]
    fn no_command_line_takes_more_than_is_left() {
        let mut budget = 3;
        let entry = entry(rustix::process::getpid(), Clock::now(), &mut budget).unwrap();
        assert_eq!((entry.args.concat().len(), budget), (3, 0));
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_it_panic(line: Vec<u8>, device: i32) {
            let _ = read_stat(&line, CLOCK);
            let _ = (arguments(&line), terminal(device));
            let mut whole = LINE.as_bytes().to_vec();
            whole.splice(4..4, line);
            let _ = read_stat(&whole, CLOCK);
        }
    }
}
