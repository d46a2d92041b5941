//! Containers and processes that end with a process of the host.
//!
//! A program that stands for a container among the host's processes may be
//! killed by whoever takes it for the container. What it stood for ends with it,
//! as it would if it were the process itself.
#![expect(
    unsafe_code,
    reason = "a descriptor is registered, which must stay open until it is not"
)]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Engine;
use super::container::ContainerRecord;
use super::process::ProcessRecord;
use crate::error::{Context, Result};
use crate::exit::Signal;

/// A process of the host, as long as it lives.
#[derive(Debug)]
pub(super) struct Tie(AsyncFd<OwnedFd>);

impl Tie {
    /// Ties to the process of that id, if there is to be any.
    ///
    /// # Errors
    /// When there is no such process.
    pub(super) fn to(pid: Option<u32>, context: &Context) -> Result<Option<Self>> {
        let Some(pid) = pid else { return Ok(None) };
        let opened = open(pid).map_err(|error| {
            context.io(
                format!("cannot be tied to process {pid} of the host"),
                error,
            )
        });
        opened.map(Some)
    }

    /// Waits until that process has ended.
    async fn parted(&self) {
        // A descriptor that cannot be waited for tells nothing: nothing is
        // ended for its sake.
        if self.0.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn open(pid: u32) -> io::Result<Tie> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = raw.ok_or(io::ErrorKind::InvalidInput)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    // SAFETY: the process's descriptor is owned by what registers it, and is
    // closed after that is over.
    let registered = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) };
    Ok(Tie(registered.map_err(io::Error::from)?))
}

/// Ends a container when the process that it is tied to ends before it.
pub(super) fn container(engine: &Arc<Engine>, record: &Arc<ContainerRecord>, tie: Option<Tie>) {
    let Some(tie) = tie else { return };
    let (engine, record) = (Arc::clone(engine), Arc::clone(record));
    let tasks = Arc::clone(&engine);
    tasks.tasks.spawn(async move {
        tokio::select! {
            biased;
            _ = record.face().exited() => {}
            () = tie.parted() => end_container(&engine, &record).await,
        }
    });
}

async fn end_container(engine: &Arc<Engine>, record: &Arc<ContainerRecord>) {
    log::info!(
        sandbox_id = engine.id(), container_id = record.id();
        "ended with the process that stood for it"
    );
    let changing = record.change().await;
    let ended = if record.is_live() {
        record.send_signal(engine, Signal::KILL, true).await
    } else if record.was_started() {
        return; // it has ended by itself
    } else {
        // There is no process yet that a signal could reach.
        drop(changing);
        engine.delete_container(record).await.map(|_| ())
    };
    told(engine, record, ended);
}

/// Ends an executed process when the process that it is tied to ends before it.
pub(super) fn process(
    engine: &Arc<Engine>,
    record: &Arc<ContainerRecord>,
    process: &Arc<ProcessRecord>,
    tie: Option<Tie>,
) {
    let Some(tie) = tie else { return };
    let (engine, record) = (Arc::clone(engine), Arc::clone(record));
    let process = Arc::clone(process);
    let tasks = Arc::clone(&engine);
    tasks.tasks.spawn(async move {
        tokio::select! {
            biased;
            _ = process.exited() => {}
            () = tie.parted() => {
                let id = process.exec_id();
                let ended = record.signal_process(&engine, id, Signal::KILL).await;
                told(&engine, &record, ended);
            }
        }
    });
}

/// Nobody waits for it.
fn told(engine: &Engine, record: &ContainerRecord, ended: Result<()>) {
    if let Err(error) = ended {
        log::warn!(
            sandbox_id = engine.id(), container_id = record.id(), error:%;
            "what stood for it has ended, and it could not be"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tie_parts_with_its_process_and_not_before() {
        let mut sleep = std::process::Command::new("sleep");
        let mut child = sleep.arg("1000").spawn().unwrap();
        let context = Context::new("tie", "s");
        let tie = Tie::to(Some(child.id()), &context).unwrap().unwrap();
        let early = tokio::time::timeout(std::time::Duration::from_millis(50), tie.parted());
        assert!(early.await.is_err());
        child.kill().unwrap();
        // Before it is reaped, too.
        tie.parted().await;
        child.wait().unwrap();
        assert!(Tie::to(Some(child.id()), &context).is_err());
        assert!(Tie::to(None, &context).unwrap().is_none());
    }
}
