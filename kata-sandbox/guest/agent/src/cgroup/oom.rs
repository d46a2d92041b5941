//! Noticing that a container ran out of memory.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};

use kata_protocol::ttrpc::Status;
use log::warn;
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::Cgroup;
use crate::process::{Context as _, awaitable};

/// Events kept for a host that does not ask; further ones replace the oldest.
const KEPT: usize = 256;

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

    fn drain(&self) -> io::Result<()> {
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

    fn changed(&self, wd: i32, events: inotify::ReadFlags) {
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
            let mut events = self.events.borrow_mut();
            if events.len() == KEPT {
                events.pop_front();
            }
            events.push_back(watched.id.clone());
            self.more.notify_one();
        }
    }
}
