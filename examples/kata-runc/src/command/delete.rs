//! Taking a container away, and its sandbox with the one it was made for.

use std::time::Duration;

use kata_sandbox::{Sandbox, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};

use crate::cgroup;
use crate::cli::{Arguments, Globals};
use crate::client;
use crate::failure::{Failure, Result};
use crate::hooks;
use crate::root::{Locked, Root};
use crate::state::{ProxyProcess, Record, Status};

/// How long a proxy may take to end after its container.
const PROXY_ENDS: Duration = Duration::from_secs(5);

/// The command.
pub(crate) fn delete(globals: &Globals, arguments: &Arguments) -> Result<u8> {
    let root = Root::open(&globals.root)?;
    let (id, forced) = (arguments.argument(0)?, arguments.has("force"));
    let locked = match root.lock(id) {
        Ok(locked) => locked,
        Err(failure) if failure == Failure::no_container() => {
            root.remove_unfinished(id)?;
            return if forced { Ok(0) } else { Err(failure) };
        }
        Err(failure) => return Err(failure),
    };
    match locked.record.status() {
        Status::Stopped | Status::Created | Status::Creating => {}
        _ if forced => {}
        other => {
            return Err(Failure::new(format!(
                "cannot delete container {id} that is not stopped: {other}"
            )));
        }
    }
    client::block_on(force(globals, locked))??;
    Ok(0)
}

/// Ends what still runs of a container, and takes it away.
pub(super) async fn force(globals: &Globals, locked: Locked) -> Result<()> {
    let Locked {
        directory, record, ..
    } = &locked;
    let sandbox = client::sandbox(globals, record).await?;
    if let Some(sandbox) = &sandbox
        && (record.status() != Status::Stopped || !record.owns_sandbox)
    {
        delete_container(sandbox, record).await?;
    }
    // It is in the sandbox's control group, which goes last.
    if let Some(process) = record.process {
        tokio::task::spawn_blocking(move || end_proxy(process))
            .await
            .map_err(|error| Failure::new(format!("cannot end the proxy: {error}")))?;
    }
    match sandbox {
        Some(sandbox) if record.owns_sandbox => sandbox.delete().await?,
        Some(_) => {}
        // What its supervisor left on the host when it was killed. That others
        // cannot be looked at is no reason to keep this one.
        None => {
            if let Err(error) = client::runtime(globals)?.recover().await {
                log::warn!(error:%; "not everything could be recovered");
            }
        }
    }
    cgroup::remove(record);
    // Whatever became of its supervisor: they are this command's to run. Before
    // the record goes, so that they are run again rather than never.
    hooks::poststop(record).await;
    directory.remove()
}

async fn delete_container(sandbox: &Sandbox, record: &Record) -> Result<()> {
    let container = match sandbox.get(&record.guest_id) {
        Ok(container) => container,
        Err(error) if client::is_gone(&error) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if record.status() == Status::Paused {
        // Frozen processes end when they may go on.
        if let Err(error) = container.resume().await {
            log::debug!(error:%; "not resumed");
        }
    }
    if record.status() != Status::Stopped {
        // One that has ended meanwhile is no failure: it is deleted next.
        if let Err(error) = container.kill_all(Signal::KILL).await {
            log::debug!(error:%; "not killed");
        }
    }
    match container.delete().await {
        // With its sandbox went the container: another of the pod, which made
        // it, is being deleted at the same time.
        Err(error) if client::is_gone(&error) => Ok(()),
        deleted => deleted.map(drop).map_err(Failure::from),
    }
}

/// Waits until a proxy has ended, as it does with its container; kills one that
/// does not.
fn end_proxy(process: ProxyProcess) {
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
    let Some(Ok(proxy)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
        return;
    };
    if !process.is_alive() {
        return;
    }
    let limit = Timespec::try_from(PROXY_ENDS).ok();
    let ended = poll(&mut [PollFd::new(&proxy, PollFlags::IN)], limit.as_ref());
    if !matches!(ended, Ok(1..)) {
        // One that has ended at last needs no signal.
        let _ = pidfd_send_signal(&proxy, rustix::process::Signal::KILL);
        let _ = poll(&mut [PollFd::new(&proxy, PollFlags::IN)], limit.as_ref());
    }
}
