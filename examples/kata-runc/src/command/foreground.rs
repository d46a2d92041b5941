//! A process whose command waits for it: signals go to it, its status comes
//! back.

use std::io::{Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};

use rustix::process::{Pid, kill_process};

use crate::console::{self, Pty, RawTerminal};
use crate::failure::{Failure, Result, errno_text};
use crate::proxy::{Forwarded, Received};
use crate::signal::signal;

/// Signals that came since it began, kept for the process.
#[derive(Debug)]
pub(super) struct Watch {
    signals: Forwarded,
}

impl Watch {
    /// Catches signals from now on.
    pub(super) fn begin() -> Result<Self> {
        let signals = Forwarded::catch().map_err(|error| {
            Failure::new(format!("cannot catch signals: {}", errno_text(&error)))
        })?;
        Ok(Self { signals })
    }

    /// Waits for the proxy's end, and answers its status as a shell would.
    pub(super) async fn until_end(
        mut self,
        mut proxy: Child,
        terminal: Option<(Pty, RawTerminal)>,
    ) -> Result<u8> {
        let pid = i32::try_from(proxy.id()).ok().and_then(Pid::from_raw);
        let shown = terminal.map(Shown::begin).transpose()?;
        let mut ended = tokio::task::spawn_blocking(move || proxy.wait());
        let status = loop {
            tokio::select! {
                biased;
                status = &mut ended => break status,
                received = self.signals.next() => match received {
                    Received::Signal(signal) => pass_on(pid, signal.0),
                    Received::Resized => {
                        if let Some(shown) = &shown {
                            shown.resize();
                        }
                    }
                },
            }
        };
        if let Some(shown) = shown {
            shown.finish();
        }
        let status = status
            .map_err(|error| Failure::new(format!("cannot wait for the proxy: {error}")))?
            .map_err(|error| Failure::new(format!("wait: {}", errno_text(&error))))?;
        Ok(shell_status(status))
    }
}

fn pass_on(pid: Option<Pid>, number: i32) {
    let (Some(pid), Some(signal)) = (pid, signal(number)) else {
        log::debug!(signal = number; "not passed on");
        return;
    };
    // One that has ended needs no signal.
    let _ = kill_process(pid, signal);
}

/// 128 and the signal's number for a process that was killed.
fn shell_status(status: ExitStatus) -> u8 {
    let number = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    };
    u8::try_from(number & 0xff).unwrap_or(u8::MAX)
}

/// A process's terminal that is shown on this program's own.
#[derive(Debug)]
struct Shown {
    master: OwnedFd,
    terminal: RawTerminal,
    output: std::thread::JoinHandle<()>,
}

impl Shown {
    fn begin((pty, terminal): (Pty, RawTerminal)) -> Result<Self> {
        let Pty { master, slave, .. } = pty;
        // The proxy has the only one left, so that its end is seen here.
        drop(slave);
        let copy = || {
            let copy = master.try_clone();
            copy.map_err(|error| Failure::io("duplicate", "/dev/ptmx", &error))
        };
        let (into, from) = (copy()?, copy()?);
        let (keys, screen) = (terminal.descriptor()?, terminal.descriptor()?);
        // Not waited for: a read of the keyboard ends with this program.
        std::thread::spawn(move || copy_all(keys, into));
        let output = std::thread::spawn(move || copy_all(from, screen));
        Ok(Self {
            master,
            terminal,
            output,
        })
    }

    fn resize(&self) {
        if let Some(size) = self.terminal.size() {
            console::resize(self.master.as_fd(), size);
        }
    }

    /// Shows the rest of what was written.
    fn finish(self) {
        // It ends when the proxy's end of the terminal is closed.
        drop(self.output.join());
    }
}

fn copy_all(from: OwnedFd, into: OwnedFd) {
    let (mut from, mut into) = (std::fs::File::from(from), std::fs::File::from(into));
    let mut bytes = [0; 4096];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => {
                if into.write_all(&bytes[..count]).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return, // the other end of the terminal is closed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_told_as_a_shell_would() {
        assert_eq!(shell_status(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(shell_status(ExitStatus::from_raw(15)), 143);
    }
}
