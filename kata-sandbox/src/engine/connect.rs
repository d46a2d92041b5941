//! Reaching the agent of a machine that boots.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kata_hypervisor::{Error as VmError, Io, Vm, VmExit};
use kata_protocol::port;
use tokio::net::UnixListener;

use crate::error::{Context, Error, ErrorKind, Result};

/// The first wait before a foreign agent is dialled again, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// Where the agent announces itself: a socket that must be there before the
/// machine runs. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Announcement {
    listener: UnixListener,
    path: PathBuf,
}

impl Announcement {
    pub(super) fn expect_at(path: &Path, context: &Context) -> Result<Self> {
        let listener = UnixListener::bind(path)
            .map_err(|e| context.io(format!("cannot listen on {}", path.display()), e))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// The stream on which the agent answers calls. Consumes the announcement:
    /// whoever dials later is not the agent.
    pub(super) async fn connection(
        self,
        vm: &dyn Vm,
        announces: bool,
        context: &Context,
    ) -> Result<Box<dyn Io>> {
        let announced = async {
            let accepted = self.listener.accept().await;
            let (stream, _) =
                accepted.map_err(|e| context.io("cannot accept the agent's connection", e))?;
            Ok(Box::new(stream) as Box<dyn Io>)
        };
        if announces {
            return announced.await;
        }
        // A foreign agent does not announce itself, but one of ours may be in
        // an image whose manifest does not say so.
        tokio::select! {
            stream = announced => stream,
            stream = dial(vm, context) => stream,
        }
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // It may be gone with the directory.
        drop(std::fs::remove_file(&self.path));
    }
}

/// Dials a foreign agent until it listens. It has no event to wait for, so
/// this is the one place that tries again: on refusal only, ever less often,
/// within the caller's deadline.
async fn dial(vm: &dyn Vm, context: &Context) -> Result<Box<dyn Io>> {
    let (mut wait, longest) = BACK_OFF;
    loop {
        match vm.dial(port::AGENT).await {
            Ok(stream) => return Ok(Box::new(stream)),
            Err(VmError::Refused { .. }) => {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(longest);
            }
            Err(error) => return Err(context.vm(error)),
        }
    }
}

/// The error of a machine that ended while it was needed.
pub(super) async fn ended(vm: &dyn Vm, context: &Context) -> Error {
    let reason = match vm.wait().await {
        Ok(VmExit::Panic) => "the guest's kernel panicked".to_owned(),
        Ok(VmExit::PowerOff | VmExit::Reset) => "the guest ended before it was ready".to_owned(),
        Ok(VmExit::Crashed { reason }) => {
            format!("the virtual machine monitor died: {reason}")
        }
        Ok(_) => "the virtual machine was killed".to_owned(),
        Err(error) => return context.vm(error),
    };
    context.error(ErrorKind::GuestLost, reason)
}
