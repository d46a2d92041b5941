//! A container and its processes.
//!
//! ```text
//! create ──> created ── start ──> running ⇄ paused
//!               │                    │
//!               └────── exit ────> stopped ── remove ──> gone
//! ```

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use kata_protocol::agent::WaitProcessResponse;
use kata_protocol::ttrpc::{Code, Status};
use rustix::process::Signal;
use rustix::thread::ThreadNameSpaceType;

use super::blueprint::Blueprint;
use crate::cgroup::Cgroup;
use crate::process::{Child, Control, Exit, Home};
use crate::stdio::Stdio;

/// A process of a container.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) child: Child,
    pub(super) stdio: Stdio,
    outcome: Cell<Option<Outcome>>,
    /// Processes the kernel had killed for want of memory when this one came.
    oom_kills: u64,
    /// SIGKILL was sent on purpose.
    killed: Cell<bool>,
    /// Its status was asked for and given.
    pub(super) collected: Cell<bool>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    exit: Exit,
    oom: bool,
}

impl Process {
    pub(super) fn new(child: Child, stdio: Stdio, oom_kills: u64) -> Rc<Self> {
        Rc::new(Self {
            child,
            stdio,
            outcome: Cell::new(None),
            oom_kills,
            killed: Cell::new(false),
            collected: Cell::new(false),
        })
    }

    /// Sends a signal; one that has ended takes none.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), Status> {
        if signal == Signal::KILL {
            self.note_kill();
        }
        crate::process::Context::context(self.child.signal(signal), || {
            format!("send signal {}", signal.as_raw())
        })
    }

    /// Remembers that SIGKILL is the caller's, not the kernel's.
    pub(super) fn note_kill(&self) {
        if self.child.exited().is_none() {
            self.killed.set(true);
        }
    }

    /// Waits until it has ended, and says how.
    pub(super) async fn wait(&self, cgroup: &Cgroup) -> WaitProcessResponse {
        let exit = self.child.wait().await;
        let Outcome { exit, oom } = self.settle(exit, cgroup);
        match exit {
            Exit::Code(status) => WaitProcessResponse {
                status,
                signal: 0,
                oom,
            },
            Exit::Signal(signal) => WaitProcessResponse {
                status: 128 + signal,
                signal: signal.cast_unsigned(),
                oom,
            },
        }
    }

    /// Decides, once, whether it was killed for want of memory.
    pub(super) fn settle(&self, exit: Exit, cgroup: &Cgroup) -> Outcome {
        self.outcome.get().unwrap_or_else(|| {
            let by_kernel = exit == Exit::Signal(libc::SIGKILL) && !self.killed.get();
            let oom = by_kernel && cgroup.oom_kills() > self.oom_kills;
            let outcome = Outcome { exit, oom };
            self.outcome.set(Some(outcome));
            outcome
        })
    }
}

/// A container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) blueprint: Blueprint,
    pub(super) cgroup: Rc<Cgroup>,
    pub(super) init: Rc<Process>,
    pub(super) execs: RefCell<HashMap<String, Rc<Process>>>,
    /// Ids of processes that are being made.
    pub(super) starting: RefCell<HashSet<String>>,
    /// What exec'd processes join.
    pub(super) namespaces: ThreadNameSpaceType,
    /// To the first process, until it is started.
    pub(super) control: RefCell<Option<Control>>,
    /// Its program runs, or has run.
    pub(super) started: Cell<bool>,
    pub(super) paused: Cell<bool>,
    /// The home directory that was looked up last.
    pub(super) home: RefCell<Option<Home>>,
}

impl Container {
    /// The process a call means: the first one has no name, or the container's,
    /// by which it can be signalled alone.
    ///
    /// # Errors
    /// `NOT_FOUND`, also when its status was collected.
    pub(super) fn process(&self, exec_id: &str) -> Result<Rc<Process>, Status> {
        if exec_id.is_empty() || exec_id == self.blueprint.id {
            return Ok(Rc::clone(&self.init));
        }
        self.execs.borrow().get(exec_id).cloned().ok_or_else(|| {
            let id = &self.blueprint.id;
            let message = format!("container {id:?} has no process {exec_id:?}");
            Status::new(Code::NotFound, message)
        })
    }

    /// That it is there and its processes may go on: it is created or running.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` when it has stopped, or is paused.
    pub(super) fn must_be_live(&self) -> Result<(), Status> {
        let state = if self.init.child.exited().is_some() {
            "has stopped"
        } else if self.paused.get() {
            "is paused"
        } else {
            return Ok(());
        };
        let message = format!("container {:?} {state}", self.blueprint.id);
        Err(Status::new(Code::FailedPrecondition, message))
    }

    /// Follows a process's end: settles its outcome while that can be told, and
    /// ends the others when a first process without a pid namespace ends.
    pub(super) fn follow(self: &Rc<Self>, process: &Rc<Process>) {
        let (container, process) = (Rc::clone(self), Rc::clone(process));
        tokio::task::spawn_local(async move {
            let exit = process.child.wait().await;
            process.settle(exit, &container.cgroup);
            let is_init = Rc::ptr_eq(&process, &container.init);
            if is_init
                && !container.blueprint.namespaces.own_pid
                && let Err(status) = container.cgroup.kill()
            {
                log::warn!(
                    container = container.blueprint.id.as_str(), error:% = status;
                    "cannot end the processes of a stopped container"
                );
            }
        });
    }
}
