//! Hooks of the OCI specification, and those of the guest's own hook directory.
//!
//! A hook blocks, so it only ever runs in a copy of the agent.

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use kata_protocol::agent::Hook;
use kata_protocol::ttrpc::{Code, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::process::{Context as _, refuse};

/// Runs hooks one after the other, with the container's state on their standard
/// input. The first that fails ends it.
///
/// # Errors
/// When one cannot be run, fails or takes longer than it may.
pub(super) fn run_all(hooks: &[Hook], state: &str) -> Result<(), Status> {
    hooks.iter().try_for_each(|hook| {
        run(hook, state).map_err(|status| {
            Status::new(
                status.code(),
                format!("hook {}: {}", hook.path, status.message),
            )
        })
    })
}

fn run(hook: &Hook, state: &str) -> Result<(), Status> {
    if !hook.path.starts_with('/') {
        return Err(refuse("its path is not absolute"));
    }
    let mut command = Command::new(&hook.path);
    if let Some((name, arguments)) = hook.args.split_first() {
        command.arg0(name).args(arguments);
    }
    let pairs = hook
        .env
        .iter()
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    command.env_clear().envs(pairs);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    // Killed as a whole when it takes too long.
    command.process_group(0);
    let mut child = command.spawn().context(|| "start it")?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let group = group.ok_or_else(|| refuse("an impossible process id"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A pipe holds more than a state; a hook need not read it.
        drop(stdin.write_all(state.as_bytes()));
    }
    let timeout = u64::try_from(hook.timeout)
        .ok()
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs);
    let pidfd = pidfd_open(group, PidfdFlags::empty()).context(|| "watch it")?;
    let mut words = Words::new(child.stderr.take());
    let in_time = words.follow(&pidfd, timeout).context(|| "wait for it")?;
    if !in_time {
        let killed = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        killed.context(|| "kill it")?;
    }
    let status = child.wait().context(|| "wait for it")?;
    let fault = match (status.code(), status.signal()) {
        _ if !in_time => {
            let seconds = timeout.unwrap_or_default().as_secs();
            let message = format!("not done within {seconds} s{words}");
            return Err(Status::new(Code::DeadlineExceeded, message));
        }
        (Some(0), _) => return Ok(()),
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("ended by signal {}", signal.unwrap_or(0)),
    };
    Err(Status::new(Code::Aborted, format!("{fault}{words}")))
}

/// The last of what a hook says on its standard error.
struct Words {
    stderr: Option<ChildStderr>,
    last: Vec<u8>,
}

/// How much of a hook's words is kept, in bytes.
const WORDS: usize = 2048;

impl Words {
    fn new(stderr: Option<ChildStderr>) -> Self {
        Self {
            stderr,
            last: Vec::new(),
        }
    }

    /// Listens until the hook has ended; false when that takes longer than it
    /// may. What it started may hold its standard error and live on.
    fn follow(&mut self, hook: &OwnedFd, timeout: Option<Duration>) -> io::Result<bool> {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        // What it started may go on to speak after its end, and for ever.
        let mut patience = 64;
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let mut fds = vec![PollFd::new(hook, PollFlags::IN)];
            fds.extend(self.stderr.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
            let ready = rustix::io::retry_on_intr(|| poll(&mut fds, left.as_ref()))?;
            let ended = !fds[0].revents().is_empty();
            let spoke = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
            if spoke && patience > 0 {
                self.hear()?;
                patience -= i32::from(ended);
            } else if ended {
                return Ok(true);
            }
            if ready == 0 {
                return Ok(false);
            }
        }
    }

    /// Takes what there is; called when that does not block.
    fn hear(&mut self) -> io::Result<()> {
        let mut part = [0; WORDS];
        let Some(stderr) = &mut self.stderr else {
            return Ok(());
        };
        let length = stderr.read(&mut part)?;
        if length == 0 {
            self.stderr = None;
        }
        self.last.extend_from_slice(&part[..length]);
        let surplus = self.last.len().saturating_sub(WORDS);
        self.last.drain(..surplus);
        Ok(())
    }
}

impl std::fmt::Display for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = String::from_utf8_lossy(&self.last);
        match text.trim() {
            "" => Ok(()),
            text => write!(f, ": {text}"),
        }
    }
}

/// The executables of `<directory>/<kind>`, in the order of their names.
pub(super) fn of_guest(directory: Option<&Path>, kind: &str) -> Vec<Hook> {
    let Some(directory) = directory else {
        return Vec::new();
    };
    let entries = std::fs::read_dir(directory.join(kind))
        .into_iter()
        .flatten()
        .flatten();
    let executable = |path: &std::path::PathBuf| {
        path.metadata()
            .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    let mut paths: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(executable)
        .collect();
    paths.sort();
    let hook = |path: std::path::PathBuf| {
        let path = path.into_os_string().into_string().ok()?;
        Some(Hook {
            args: vec![path.clone(), kind.to_owned()],
            path,
            ..Hook::default()
        })
    };
    paths.into_iter().filter_map(hook).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: i64) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: ["sh", "-c", script].map(String::from).to_vec(),
            env: vec!["WORD=here".into()],
            timeout,
        }
    }

    #[test]
    fn a_hook_gets_the_state_and_its_environment() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("out");
        let script = format!("{{ echo $WORD; cat; }} > {}", file.display());
        run_all(&[shell(&script, 0)], "{\"id\":\"c\"}").unwrap();
        assert_eq!(
            std::fs::read_to_string(file).unwrap(),
            "here\n{\"id\":\"c\"}"
        );
    }

    #[test]
    fn a_hook_that_fails_is_named() {
        let status = run_all(&[shell("exit 3", 5)], "").unwrap_err();
        assert_eq!(status.message, "hook /bin/sh: exit status 3");
    }

    #[test]
    fn a_hook_s_last_words_are_told() {
        let script = "i=0; while [ $i -lt 9000 ]; do echo 0123456789 >&2; i=$((i+1)); done; \
                      echo no such device >&2; sleep 1000 & exit 1";
        let status = run_all(&[shell(script, 0)], "").unwrap_err();
        assert!(status.message.contains("exit status 1: "), "{status}");
        assert!(status.message.ends_with("\nno such device"), "{status}");
        assert!(status.message.len() < 3000);
        let status = run_all(&[shell("echo slow >&2; sleep 60", 1)], "").unwrap_err();
        assert!(
            status.message.ends_with("not done within 1 s: slow"),
            "{status}"
        );
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed() {
        let status = run_all(&[shell("sleep 60", 1)], "").unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }

    #[test]
    fn guest_hooks_are_the_executables_of_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let hooks = directory.path().join("prestart");
        std::fs::create_dir(&hooks).unwrap();
        for (name, mode) in [("b", 0o755), ("a", 0o755), ("readme", 0o644)] {
            std::fs::write(hooks.join(name), "").unwrap();
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(hooks.join(name), mode).unwrap();
        }
        let found = of_guest(Some(directory.path()), "prestart");
        let names: Vec<_> = found
            .iter()
            .map(|h| h.path.rsplit('/').next().unwrap())
            .collect();
        assert_eq!(names, ["a", "b"]);
    }
}
