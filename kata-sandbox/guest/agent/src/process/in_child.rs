//! Work that may block, done in a copy of the agent.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use kata_protocol::ttrpc::{Code, Status};
use rustix::process::Signal;

use super::clone::{Copy, clone_self};
use super::control::{Control, Message, control_pair};
use super::failure::Context as _;
use super::reaper::{Child, Exit};

/// The largest result that is taken from a copy.
const OUTPUT_LIMIT: usize = 16 << 20;

/// Work in a copy of the agent; killed when this is dropped before its end.
#[derive(Debug)]
pub(crate) struct Task {
    child: Child,
    control: Control,
}

impl Task {
    /// Runs `work` in a copy of the agent that keeps the descriptors `keep`
    /// under their numbers.
    ///
    /// # Errors
    /// When no process can be made.
    pub(crate) fn start(
        keep: &[BorrowedFd<'_>],
        work: impl FnOnce() -> Result<Vec<u8>, Status>,
    ) -> Result<Self, Status> {
        Self::start_in(None, keep, work)
    }

    /// The same, in a control group: what the work uses is its.
    ///
    /// # Errors
    /// When no process can be made, there or at all.
    pub(crate) fn start_in(
        cgroup: Option<BorrowedFd<'_>>,
        keep: &[BorrowedFd<'_>],
        work: impl FnOnce() -> Result<Vec<u8>, Status>,
    ) -> Result<Self, Status> {
        let (control, copy_control) = control_pair()?;
        let mut copy = Copy {
            cgroup,
            ..Copy::default()
        };
        copy.keep.extend(keep.iter().map(|fd| fd.as_raw_fd()));
        copy.keep.push(copy_control.as_raw_fd());
        let child = clone_self(&copy, || {
            match work().and_then(|output| copy_control.output(&output)) {
                Ok(()) => 0,
                Err(status) => {
                    copy_control.failed(&status);
                    1
                }
            }
        })
        .context(|| "start a helper process")?;
        Ok(Self { child, control })
    }

    /// Waits for the work's result.
    ///
    /// # Errors
    /// What the work returned, or that the copy died.
    pub(crate) async fn result(self) -> Result<Vec<u8>, Status> {
        let mut output = Vec::new();
        while let Some(message) = self.control.receive().await? {
            match message {
                Message::Output(part) if output.len() + part.len() <= OUTPUT_LIMIT => {
                    output.extend(part);
                }
                Message::Output(_) => {
                    let message = "a helper process returned too much";
                    return Err(Status::new(Code::ResourceExhausted, message));
                }
                Message::Failed(status) => return Err(status),
                _ => {
                    return Err(Status::new(
                        Code::Internal,
                        "a helper process spoke out of turn",
                    ));
                }
            }
        }
        match self.child.wait().await {
            Exit::Code(0) => Ok(output),
            exit => Err(Status::new(
                Code::Aborted,
                format!("a helper process ended: {exit:?}"),
            )),
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if self.child.exited().is_none() {
            // It cannot fail for a child of ours; if it did, the copy would
            // still end by itself.
            drop(self.child.signal(Signal::KILL));
        }
    }
}

/// Runs blocking `work` in a copy of the agent, in the agent's namespaces, and
/// waits for its result. Dropping the future kills the copy.
///
/// # Errors
/// What the work returned, or that the copy died.
pub(crate) async fn in_child(
    keep: &[BorrowedFd<'_>],
    work: impl FnOnce() -> Result<Vec<u8>, String>,
) -> Result<Vec<u8>, Status> {
    let work = || work().map_err(|message| Status::new(Code::Internal, message));
    Task::start(keep, work)?.result().await
}
