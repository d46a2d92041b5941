//! Starting a process that outlives this one.
#![expect(
    unsafe_code,
    reason = "what happens between fork and exec cannot be said safely"
)]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use kata_hypervisor::inherit;

use super::Supervisor;

/// Starts the supervisor's program with `socket` as its standard input, and
/// does not wait for it. It is no child of this process: its parent is the
/// host's first process, or a subreaper, and nobody here has to reap it.
pub(super) fn spawn(supervisor: &Supervisor, socket: OwnedFd) -> io::Result<()> {
    let mut command = Command::new(&supervisor.program);
    command
        .args(&supervisor.arguments)
        .env_clear()
        .envs(
            supervisor
                .environment
                .iter()
                .map(|(key, value)| (key, value)),
        )
        .current_dir("/")
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .stderr(match &supervisor.log {
            Some(path) => {
                let mut options = OpenOptions::new();
                options.create(true).append(true).mode(0o640);
                Stdio::from(options.open(path)?)
            }
            None => Stdio::null(),
        });
    // SAFETY: the closure runs in the forked child before exec. It makes only
    // system calls, allocates nothing and takes no lock.
    unsafe { command.pre_exec(leave) };
    let mut first = command.spawn()?;
    match first.wait() {
        Ok(_) => Ok(()),
        // The embedder ignores SIGCHLD, or reaps whatever it finds.
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Runs in the child, between fork and exec: system calls only.
fn leave() -> io::Result<()> {
    // SAFETY: this process has one thread, the one that forked; the second
    // child goes on to exec, which the first leaves to it.
    match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {}
        // SAFETY: _exit runs nothing of this program.
        _ => unsafe { libc::_exit(0) },
    }
    rustix::process::setsid()?;
    inherit::nothing_from(3);
    Ok(())
}
