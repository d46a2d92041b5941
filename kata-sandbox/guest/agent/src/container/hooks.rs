//! Hooks of the OCI specification, and those of the guest's own hook directory.
//!
//! A hook blocks, so it only ever runs in a copy of the agent.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

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
        .stderr(Stdio::null());
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
        .filter(|seconds| *seconds > 0);
    if let Some(timeout) = timeout.map(Duration::from_secs) {
        let pidfd = pidfd_open(group, PidfdFlags::empty()).context(|| "watch it")?;
        let limit = Timespec::try_from(timeout).map_err(|_| refuse("its timeout is too long"))?;
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        let ended = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&limit)));
        if ended.context(|| "wait for it")? == 0 {
            let killed = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            killed.context(|| "kill it")?;
            child.wait().context(|| "wait for it")?;
            let message = format!("not done within {} s", timeout.as_secs());
            return Err(Status::new(Code::DeadlineExceeded, message));
        }
    }
    let status = child.wait().context(|| "wait for it")?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(Status::new(Code::Aborted, format!("exit status {code}"))),
        (None, signal) => {
            let message = format!("ended by signal {}", signal.unwrap_or(0));
            Err(Status::new(Code::Aborted, message))
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
