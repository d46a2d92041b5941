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
    use std::fs::File;
    use std::path::PathBuf;
    use std::sync::{Arc, Barrier};
    use std::time::Duration;

    use rustix::thread::UnshareFlags;

    use super::*;
    use crate::tap::unshare_thread;

    #[tokio::test]
    async fn work_that_panics_is_an_error() {
        let gone = inside::<()>(None, "panic", || panic!("as it should")).await;
        let error = gone.unwrap_err();
        assert!(error.to_string().contains("panic"), "{error}");
    }

    /// The network namespace of the calling thread.
    fn here() -> PathBuf {
        std::fs::read_link("/proc/thread-self/ns/net").unwrap()
    }

    /// Another one, where this user may have it.
    fn another() -> Option<OwnedFd> {
        let make = || {
            unshare_thread(UnshareFlags::NEWNET).ok()?;
            File::open("/proc/thread-self/ns/net")
                .ok()
                .map(OwnedFd::from)
        };
        std::thread::spawn(make).join().unwrap()
    }

    /// Where all threads of a pool are: each task waits for all others, so that
    /// none runs on the thread of another.
    async fn all_threads() -> Vec<PathBuf> {
        let together = Arc::new(Barrier::new(THREADS));
        let tasks = (0..THREADS).map(|_| {
            let together = Arc::clone(&together);
            tokio::spawn(async move {
                together.wait();
                here()
            })
        });
        let tasks: Vec<_> = tasks.collect();
        let together = Arc::new(Barrier::new(THREADS));
        let blocking = (0..THREADS).map(|_| {
            let together = Arc::clone(&together);
            tokio::task::spawn_blocking(move || {
                together.wait();
                here()
            })
        });
        let tasks = tasks.into_iter().chain(blocking.collect::<Vec<_>>());
        let mut seen = Vec::new();
        for task in tasks {
            seen.push(task.await.unwrap());
        }
        seen
    }

    const THREADS: usize = 3;

    #[test]
    fn no_thread_of_the_pool_is_left_in_another_namespace() {
        let Some(other) = another() else {
            eprintln!("skipped: a network namespace needs root");
            return;
        };
        let pool = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(THREADS)
            .enable_time()
            .build()
            .unwrap();
        let own = here();
        let work = |work: fn() -> Result<PathBuf>| {
            let other = other.try_clone().unwrap();
            pool.block_on(async {
                tokio::spawn(inside(Some(other), "look", work))
                    .await
                    .unwrap()
            })
        };
        let refused = || Err(Error::host("look")(io::ErrorKind::NotFound.into()));
        assert_ne!(work(|| Ok(here())).unwrap(), own, "the work was elsewhere");
        for failing in [work(refused), work(|| panic!("as it should"))] {
            failing.unwrap_err();
        }
        let given_up = inside(Some(other.try_clone().unwrap()), "look", || Ok(here()));
        drop(pool.block_on(async { tokio::time::timeout(Duration::ZERO, given_up).await }));
        let waited = pool.spawn_blocking(move || {
            on_thread("look", move || {
                enter(Some(other))?;
                Ok(here())
            })
        });
        assert_ne!(pool.block_on(waited).unwrap().unwrap(), own);

        assert_eq!(here(), own);
        assert_eq!(pool.block_on(all_threads()), vec![own; 2 * THREADS]);
    }

    #[tokio::test]
    async fn work_goes_on_when_nobody_waits() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let work = inside(None, "work", move || {
            sender.send(()).map_err(|_| unreachable!())
        });
        drop(tokio::time::timeout(Duration::ZERO, work).await);
        receiver.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
