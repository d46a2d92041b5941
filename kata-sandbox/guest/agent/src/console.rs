//! The debug console: a shell of the guest on a vsock port, for people.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{ioctl_tiocsctty, setsid};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tokio::io::{AsyncWriteExt as _, copy};
use tokio::net::unix::pipe;
use tokio::task::spawn_local;

use crate::process::in_child;
use crate::transport::{Listener, Stream};

const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];

/// Starts a shell for each connection.
pub(crate) async fn serve(listener: Listener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        spawn_local(async move {
            if let Err(error) = attend(stream).await {
                log::warn!(error:% = error; "a debug console ended");
            }
        });
    }
}

async fn attend(mut stream: Stream) -> io::Result<()> {
    let Some(shell) = SHELLS.into_iter().find(|shell| Path::new(shell).exists()) else {
        return stream.write_all(b"this guest has no shell\r\n").await;
    };
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let (near, far) = terminal(flags)?;
    let from_shell = pipe::Receiver::from_owned_fd_unchecked(near.try_clone()?)?;
    let to_shell = pipe::Sender::from_owned_fd_unchecked(near)?;
    let (mut from_user, mut to_user) = stream.split();
    let (mut from_shell, mut to_shell) = (from_shell, to_shell);
    let keep = [far.as_fd()];
    tokio::select! {
        ended = in_child(&keep, || Err(execute(shell, far.as_fd()))) => {
            if let Err(status) = ended {
                log::debug!(error:% = status; "a debug console's shell ended");
            }
            Ok(())
        }
        result = copy(&mut from_user, &mut to_shell) => result.map(drop),
        result = copy(&mut from_shell, &mut to_user) => result.map(drop),
    }
}

fn terminal(flags: OpenptFlags) -> io::Result<(OwnedFd, OwnedFd)> {
    let near = openpt(flags)?;
    grantpt(&near)?;
    unlockpt(&near)?;
    let name = ptsname(&near, Vec::new())?;
    let far = open(
        name,
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rustix::io::ioctl_fionbio(&near, true)?;
    Ok((near, far))
}

/// Becomes the shell; returns why it could not.
fn execute(shell: &str, terminal: BorrowedFd<'_>) -> String {
    let stdio = || terminal.try_clone_to_owned().map(Stdio::from);
    let attempt = || -> io::Result<io::Error> {
        setsid()?;
        ioctl_tiocsctty(terminal)?;
        let mut command = Command::new(shell);
        command
            .env("TERM", "vt220")
            .env("PATH", "/sbin:/usr/sbin:/bin:/usr/bin");
        Ok(command
            .stdin(stdio()?)
            .stdout(stdio()?)
            .stderr(stdio()?)
            .exec())
    };
    match attempt() {
        Ok(error) | Err(error) => format!("cannot execute {shell}: {error}"),
    }
}
