//! Noticing that a container ran out of memory.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::time::Duration;

use kata_protocol::ttrpc::Status;
use log::warn;
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Cgroup;
use crate::process::{Context as _, awaitable};

/// Events kept for a host that does not ask; further ones replace the oldest.
const KEPT: usize = 256;

/// A container's events come no closer together, however often it runs out of
/// memory; those in between become one.
const APART: Duration = Duration::from_secs(1);

/// The out-of-memory events of all containers.
#[derive(Debug)]
pub(crate) struct OomWatch {
    inotify: AsyncFd<OwnedFd>,
    watched: RefCell<HashMap<i32, Watched>>,
    events: RefCell<VecDeque<String>>,
    more: Notify,
}

#[derive(Debug)]
struct Watched {
    id: String,
    cgroup: Weak<Cgroup>,
    kills: u64,
    /// When its next event may be given.
    quiet_until: Option<Instant>,
    /// One is to be given then.
    pending: bool,
}

impl OomWatch {
    /// Watches nothing yet; its local task ends with the last reference.
    ///
    /// # Errors
    /// When the kernel has no inotify.
    pub(crate) fn start() -> io::Result<Rc<Self>> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let watch = Rc::new(Self {
            inotify: awaitable(inotify, Interest::READABLE)?,
            watched: RefCell::default(),
            events: RefCell::default(),
            more: Notify::new(),
        });
        // The task owns the watch; whoever drops the set it runs in ends it.
        tokio::task::spawn_local(Rc::clone(&watch).run());
        Ok(watch)
    }

    /// Watches a container until its control group is gone.
    ///
    /// # Errors
    /// When the kernel cannot watch more.
    pub(crate) fn add(&self, id: &str, cgroup: &Rc<Cgroup>) -> Result<(), Status> {
        let path = cgroup.path().join("memory.events");
        let wd = match inotify::add_watch(self.inotify.get_ref(), &path, WatchFlags::MODIFY) {
            Err(rustix::io::Errno::NOENT) => return Ok(()), // no memory controller
            wd => wd.context(|| format!("watch {}", path.display()))?,
        };
        let kills = cgroup.oom_kills();
        let watched = Watched {
            id: id.to_owned(),
            cgroup: Rc::downgrade(cgroup),
            kills,
            quiet_until: None,
            pending: false,
        };
        self.watched.borrow_mut().insert(wd, watched);
        Ok(())
    }

    /// Waits for the next container that ran out of memory.
    pub(crate) async fn next(&self) -> String {
        loop {
            let more = self.more.notified();
            if let Some(id) = self.events.borrow_mut().pop_front() {
                return id;
            }
            more.await;
        }
    }

    async fn run(self: Rc<Self>) {
        loop {
            match self.inotify.readable().await {
                Ok(mut guard) => {
                    if let Err(error) = self.drain() {
                        warn!(error:%; "cannot hear of containers out of memory");
                        return;
                    }
                    guard.clear_ready();
                }
                Err(_) => return, // the runtime is going down
            }
        }
    }

    fn drain(self: &Rc<Self>) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut events = Reader::new(self.inotify.get_ref(), &mut buffer);
        loop {
            match events.next() {
                Ok(event) => self.changed(event.wd(), event.events()),
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn changed(self: &Rc<Self>, wd: i32, events: inotify::ReadFlags) {
        let mut all = self.watched.borrow_mut();
        if events.contains(inotify::ReadFlags::IGNORED) {
            all.remove(&wd); // the group is gone
            return;
        }
        let Some(watched) = all.get_mut(&wd) else {
            return;
        };
        let Some(cgroup) = watched.cgroup.upgrade() else {
            return;
        };
        let kills = cgroup.oom_kills();
        if kills > watched.kills {
            watched.kills = kills;
            self.tell(wd, watched);
        }
    }

    /// Queues an event now, or when the container's last one is long enough ago.
    fn tell(self: &Rc<Self>, wd: i32, watched: &mut Watched) {
        let now = Instant::now();
        match watched.quiet_until.filter(|until| *until > now) {
            None => {
                watched.quiet_until = Some(now + APART);
                self.queue(&watched.id);
            }
            Some(_) if watched.pending => {}
            Some(until) => {
                watched.pending = true;
                let watch = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    tokio::time::sleep_until(until).await;
                    // Unless it is gone, and with it whoever would want to know.
                    if let Some(watched) = watch.watched.borrow_mut().get_mut(&wd) {
                        watched.pending = false;
                        watched.quiet_until = Some(until + APART);
                        watch.queue(&watched.id);
                    }
                });
            }
        }
    }

    fn queue(&self, id: &str) {
        let mut events = self.events.borrow_mut();
        // One that waits to be taken says all that another could.
        if events.iter().any(|waiting| waiting == id) {
            return;
        }
        if events.len() == KEPT {
            events.pop_front();
        }
        events.push_back(id.to_owned());
        self.more.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::LocalSet;

    fn watched(id: &str) -> Watched {
        Watched {
            id: id.into(),
            cgroup: Weak::new(),
            kills: 0,
            quiet_until: None,
            pending: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_one_container_becomes_an_event_a_second() {
        let events = LocalSet::new()
            .run_until(async {
                let watch = OomWatch::start().unwrap();
                watch.watched.borrow_mut().insert(7, watched("c"));
                let flood = async {
                    for _ in 0..2500 {
                        watch.tell(7, watch.watched.borrow_mut().get_mut(&7).unwrap());
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                };
                let mut events = 0;
                let count = async {
                    loop {
                        assert_eq!(watch.next().await, "c");
                        events += 1;
                    }
                };
                tokio::select! {
                    () = flood => {}
                    () = count => {}
                }
                events
            })
            .await;
        // One at once, and one for each second after.
        assert!((2..=6).contains(&events), "{events}");
    }

    #[tokio::test]
    async fn what_waits_to_be_taken_is_not_queued_again() {
        LocalSet::new()
            .run_until(async {
                let watch = OomWatch::start().unwrap();
                for id in ["a", "b", "a"] {
                    watch.queue(id);
                }
                assert_eq!(
                    (watch.next().await, watch.next().await),
                    ("a".into(), "b".into())
                );
                assert!(watch.events.borrow().is_empty());
            })
            .await;
    }
}
