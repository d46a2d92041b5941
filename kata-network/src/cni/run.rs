//! Running one program with a deadline.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// How much of a program's answer is read, in bytes.
const ANSWER: usize = 1 << 20;
/// How much of a program's complaints is kept: the last of them, in bytes.
const COMPLAINTS: usize = 16 << 10;

/// What a program came to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) end: End,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

/// How a program ended.
#[derive(Debug)]
pub(super) enum End {
    Exited(ExitStatus),
    /// It did not, and was killed.
    Hung,
    /// Nobody wanted it any more, and it was killed.
    GivenUp,
}

/// Runs a program with that environment alone, gives it `input`, and waits
/// until it ends, `limit` has passed, or `given_up` becomes readable.
pub(super) fn run(
    program: &Path,
    environment: Vec<(&str, OsString)>,
    input: &[u8],
    limit: Duration,
    given_up: &OwnedFd,
) -> io::Result<Outcome> {
    let mut child = Command::new(program)
        .env_clear()
        .envs(environment)
        // What holds the whole input can be read at any time, or never.
        .stdin(Stdio::from(holding(input)?))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // It is killed with whatever it started.
        .process_group(0)
        .current_dir("/")
        .spawn()?;
    let outcome = watch(&mut child, limit, given_up);
    if !matches!(&outcome, Ok(outcome) if matches!(outcome.end, End::Exited(_))) {
        // It has not been waited for: the id is still its own.
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        child.wait()?;
    }
    outcome
}

/// A file that holds those bytes.
fn holding(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("cni", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

fn watch(child: &mut Child, limit: Duration, given_up: &OwnedFd) -> io::Result<Outcome> {
    let until = Instant::now() + limit;
    let gone = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let mut stdout = Gathered::of(child.stdout.take().map(OwnedFd::from), ANSWER)?;
    let mut stderr = Gathered::of(child.stderr.take().map(OwnedFd::from), COMPLAINTS)?;
    let end = loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut waited = vec![
            PollFd::new(&gone, PollFlags::IN),
            PollFd::new(given_up, PollFlags::IN),
        ];
        for pipe in [&stdout, &stderr] {
            waited.extend(
                pipe.pipe
                    .iter()
                    .map(|pipe| PollFd::new(pipe, PollFlags::IN)),
            );
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut waited, Some(&timeout)) {
            Err(Errno::INTR) => continue,
            Ok(0) => break End::Hung,
            other => other?,
        };
        let (has_ended, unwanted) = (
            !waited[0].revents().is_empty(),
            !waited[1].revents().is_empty(),
        );
        stdout.gather()?;
        stderr.gather()?;
        if has_ended {
            break End::Exited(child.wait()?);
        }
        if unwanted {
            break End::GivenUp;
        }
    };
    Ok(Outcome {
        end,
        stdout: stdout.bytes,
        stderr: stderr.bytes,
    })
}

/// What comes out of a pipe: so many bytes, the last ones.
struct Gathered {
    pipe: Option<File>,
    bytes: Vec<u8>,
    most: usize,
}

impl Gathered {
    fn of(pipe: Option<OwnedFd>, most: usize) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            rustix::io::ioctl_fionbio(pipe.as_fd(), true)?;
        }
        Ok(Self {
            pipe: pipe.map(File::from),
            bytes: Vec::new(),
            most,
        })
    }

    /// Takes what is there.
    fn gather(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(length) => {
                    self.bytes.extend_from_slice(&buffer[..length]);
                    let over = self.bytes.len().saturating_sub(self.most);
                    self.bytes.drain(..over);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    fn sh(script: &str, limit: Duration, given_up: u32) -> Outcome {
        let given_up = eventfd(given_up, EventfdFlags::CLOEXEC).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("p");
        // Another process writes it: a file that this one has open for writing
        // while some test forks cannot be executed.
        let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\" && chmod 755 \"$2\"";
        let mut written = Command::new("/bin/sh");
        written.args(["-c", write, "sh", script]).arg(&program);
        assert!(written.status().unwrap().success());
        let input = vec![b'x'; 200_000];
        let environment = vec![("A", OsString::from("b"))];
        run(&program, environment, &input, limit, &given_up).unwrap()
    }

    #[test]
    fn a_program_has_its_input_and_no_other_environment() {
        let outcome = sh(
            "/usr/bin/wc -c; echo $A$HOME; echo oops >&2; exit 3",
            LONG,
            0,
        );
        assert!(matches!(outcome.end, End::Exited(status) if status.code() == Some(3)));
        assert_eq!(outcome.stdout, b"200000\nb\n");
        assert_eq!(outcome.stderr, b"oops\n");
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let outcome = sh("/bin/sleep 1000 & wait", Duration::from_millis(300), 0);
        assert!(matches!(outcome.end, End::Hung));
    }

    #[test]
    fn a_program_that_nobody_wants_is_killed() {
        let outcome = sh("exec /bin/sleep 1000", LONG, 1);
        assert!(matches!(outcome.end, End::GivenUp));
    }

    #[test]
    fn a_child_that_holds_the_pipes_is_not_waited_for() {
        let outcome = sh("/bin/sleep 20 & echo done", LONG, 0);
        assert_eq!(outcome.stdout, b"done\n");
    }

    #[test]
    fn endless_complaints_are_cut() {
        let outcome = sh("/usr/bin/head -c 300000 /dev/zero >&2", LONG, 0);
        assert_eq!(outcome.stderr.len(), COMPLAINTS);
    }
}
