//! Threads in network namespaces.
//!
//! A thread that has entered another network namespace must never do anything
//! else: each here is made for one piece of work and ends with it.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// Does `work` on a thread of its own in a network namespace; in the program's
/// own without one. It goes on to its end even when the future is dropped.
pub(crate) async fn inside<T: Send + 'static>(
    netns: Option<OwnedFd>,
    what: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (reply, done) = oneshot::channel();
    std::thread::Builder::new()
        .name(format!("net-{what}"))
        .spawn(move || {
            // Nobody need wait any more.
            drop(reply.send(enter(netns).and_then(|()| work())));
        })
        .map_err(Error::host(format!("start a thread to {what}")))?;
    done.await.unwrap_or_else(|_| {
        let panicked = io::Error::other("the thread that does it panicked");
        Err(Error::host(what)(panicked))
    })
}

/// Does `work` on a thread of its own, and waits for it: for callers that are on
/// a thread that may wait.
pub(crate) fn on_thread<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let thread = std::thread::Builder::new().name(format!("net-{what}"));
    let thread = thread.spawn(work);
    let thread = thread.map_err(Error::host(format!("start a thread to {what}")))?;
    thread.join().unwrap_or_else(|_| {
        let panicked = io::Error::other("the thread that does it panicked");
        Err(Error::host(what)(panicked))
    })
}

/// Moves the calling thread, which must do nothing else, into a namespace.
pub(super) fn enter(netns: Option<OwnedFd>) -> Result<()> {
    let Some(netns) = netns else {
        return Ok(());
    };
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|errno| Error::host("enter the network namespace")(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_panics_is_an_error() {
        let gone = inside::<()>(None, "panic", || panic!("as it should")).await;
        let error = gone.unwrap_err();
        assert!(error.to_string().contains("panic"), "{error}");
    }

    #[tokio::test]
    async fn work_goes_on_when_nobody_waits() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let work = inside(None, "work", move || {
            sender.send(()).map_err(|_| unreachable!())
        });
        drop(tokio::time::timeout(std::time::Duration::ZERO, work).await);
        receiver
            .recv_timeout(std::time::Duration::from_secs(10))
            .unwrap();
    }
}
