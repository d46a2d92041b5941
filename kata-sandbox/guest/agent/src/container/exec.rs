//! Further processes in a container.
//!
//! One clone and no other process: the agent clones itself into the container's
//! control group and pid namespace; the copy enters the rest of the namespaces
//! with a single setns(2) and becomes the program. Everything that can be made
//! ready is ready before the copy.
//!
//! Where a container may have CAP_SYS_PTRACE that is too much to show: its
//! processes could take the copy over while it has all privileges. There the
//! copy stays out of the pid namespace, gives everything up, and only then has
//! a process born in it that becomes the program.

use std::rc::Rc;
use std::sync::OnceLock;

use kata_protocol::agent::{ExecProcessRequest, StartedProcess};
use kata_protocol::ttrpc::{Code, Status};
use rustix::process::Signal;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::blueprint::Task;
use super::container::{Container, Process};
use super::first_process::{become_program, control_terminal, join_stdio};
use super::{Containers, check_id};
use crate::process::{
    Account, Affinity, Child, Context as _, Copy, CopyControl, Field as _, Home, Legacy,
    clone_self, control_pair, detach_from_agent, refuse, reset_signals,
};
use crate::seccomp::Filter;
use crate::stdio::{ChildEnds, Plan, Ports, WindowSize};

impl Containers {
    /// Runs a further process in a container, whose program need not have been
    /// started.
    ///
    /// # Errors
    /// When the id is taken, the container has stopped or is paused, or the
    /// program cannot be run: `NOT_FOUND` if there is none, `PERMISSION_DENIED`
    /// if it is no program for that user. And when it could trace, before the
    /// start: the copy that waits for it still has all of the agent's privileges.
    pub(crate) async fn exec(
        self: &Rc<Self>,
        request: ExecProcessRequest,
    ) -> Result<StartedProcess, Status> {
        let container = self.find(&request.container_id)?;
        check_id(&request.exec_id)?;
        container.must_be_live()?;
        let process = request
            .process
            .as_ref()
            .ok_or_else(|| refuse("the request has no process"))?;
        let names = request.string_user.as_ref();
        let mut task = Task::new(process, names, &container.blueprint.linux)?;
        if task.privileges.may_trace() && !container.started.get() {
            let message = format!(
                "container {:?} is not started: until then it runs no process with CAP_SYS_PTRACE",
                request.container_id
            );
            return Err(Status::new(Code::FailedPrecondition, message));
        }
        let ports = Ports {
            stdin: request.stdin_port,
            stdout: request.stdout_port,
            stderr: request.stderr_port,
        };
        let size = process.console_size.as_ref();
        let terminal = process.terminal.then(|| WindowSize::from(size));
        let streams = Plan::new(&self.config.streams, ports, terminal).await?;
        let (child_ends, agent_ends) = streams.open(self.config.pipe_size)?;

        let mut starting = Starting::new(&container, &request.exec_id)?;
        // Asked here, so that the copy knows.
        own_oom_score();
        let (control, copy_control) = control_pair()?;
        let mut keep = child_ends.keep();
        keep.push(std::os::fd::AsRawFd::as_raw_fd(
            &container.init.child.pidfd(),
        ));
        keep.push(std::os::fd::AsRawFd::as_raw_fd(&copy_control));
        let copy = Copy {
            namespaces: 0,
            cgroup: Some(container.cgroup.fd()),
            keep,
        };
        let oom_kills = container.cgroup.oom_kills();
        let known = container.home.borrow().clone();
        let hidden = self.tracers.get();
        if task.privileges.may_trace() && container.blueprint.namespaces.ids.is_none() {
            self.tracers.set(true);
        }
        let mut clone = || {
            clone_self(&copy, || {
                let work = Work {
                    container: &container,
                    ends: &child_ends,
                    control: &copy_control,
                    home: known.as_ref(),
                };
                work.run(&mut task, hidden)
            })
            .context(|| "make a process")
        };
        let pidfd = container.init.child.pidfd();
        let mut child = match hidden {
            true => clone()?,
            false => self.own.within_pid_of(pidfd, clone)?,
        };
        drop((child_ends, copy_control));
        starting.child = Some(child.clone());
        let mut legacy = Legacy::default();
        if hidden {
            let succeeded = control.successor().await;
            child.wait().await;
            (child, legacy) = succeeded?;
            starting.child = Some(child.clone());
            control.go()?;
        }
        let pid = child.pid().as_raw_nonzero().get().unsigned_abs();
        match control.executed().await {
            Ok(more) => legacy.extend(more),
            Err(status) => {
                child.wait().await;
                return Err(status);
            }
        }
        let process = Process::new(child, agent_ends.connect(legacy.terminal)?, oom_kills);
        if legacy.home.is_some() {
            *container.home.borrow_mut() = legacy.home;
        }
        starting.child = None;
        drop(starting);
        container.follow(&process);
        container
            .execs
            .borrow_mut()
            .insert(request.exec_id, process);
        Ok(StartedProcess { pid })
    }
}

/// A process that is being made: its id is taken. Killed if it is given up, as
/// nobody would know of it.
struct Starting<'a> {
    container: &'a Container,
    exec_id: &'a str,
    child: Option<Child>,
}

impl<'a> Starting<'a> {
    fn new(container: &'a Container, exec_id: &'a str) -> Result<Self, Status> {
        vacant(container, exec_id)?;
        container.starting.borrow_mut().insert(exec_id.to_owned());
        Ok(Self {
            container,
            exec_id,
            child: None,
        })
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.container.starting.borrow_mut().remove(self.exec_id);
        if let Some(child) = self.child.take().filter(|child| child.exited().is_none())
            && let Err(error) = child.signal(Signal::KILL)
        {
            log::warn!(error:%; "cannot kill a process that was given up");
        }
    }
}

/// That no process has the id, or one whose status was collected.
fn vacant(container: &Container, exec_id: &str) -> Result<(), Status> {
    let id = &container.blueprint.id;
    let taken = || {
        let message = format!("container {id:?} has a process {exec_id:?} already");
        Err(Status::new(Code::AlreadyExists, message))
    };
    match container.execs.borrow().get(exec_id) {
        _ if exec_id == id || container.starting.borrow().contains(exec_id) => taken(),
        Some(process) if !process.collected.get() => taken(),
        _ => Ok(()),
    }
}

/// What the copy works with.
struct Work<'a> {
    container: &'a Container,
    ends: &'a ChildEnds,
    control: &'a CopyControl,
    /// A home directory that was looked up before.
    home: Option<&'a Home>,
}

impl Work<'_> {
    /// Joins the container and becomes the program, itself or, where it must not
    /// be seen, in a process that goes on for it; gives an exit status otherwise.
    fn run(&self, task: &mut Task, hidden: bool) -> i32 {
        let failure = if hidden {
            match self.send_successor(task) {
                Ok(()) => return 0,
                Err(status) => status,
            }
        } else {
            match self.join(task, false).and_then(|account| {
                detach_from_agent().context(|| "leave the agent's session")?;
                control_terminal(self.ends)?;
                Ok(account)
            }) {
                Ok(account) => become_program(task, &account, self.filter()),
                Err(status) => status,
            }
        };
        self.control.failed(&failure);
        127
    }

    fn filter(&self) -> Option<&Filter> {
        self.container.blueprint.filter.as_ref()
    }

    /// Gives up what the program is not to have, and has it go on from there.
    fn send_successor(&self, task: &mut Task) -> Result<(), Status> {
        let account = self.join(task, true)?;
        reset_signals().context(|| "reset the signals")?;
        let Task {
            program,
            privileges,
            ..
        } = task;
        privileges.assume(&account, self.filter(), || program.enter_directory())?;
        self.control.succeed(|| {
            let sealed = rustix::process::setsid()
                .context(|| "make a session")
                .and_then(|_| control_terminal(self.ends))
                .and_then(|()| privileges.seal(self.filter()));
            self.control.failed(&match sealed {
                Ok(()) => program.execute(),
                Err(status) => status,
            });
            127
        })
    }

    fn join(&self, task: &mut Task, hidden: bool) -> Result<Account, Status> {
        let [initial, last] = &task.affinity;
        initial.as_ref().map_or(Ok(()), Affinity::apply)?;
        if own_oom_score() != Some(task.oom_score) {
            // Through the agent's /proc, before the container's is all there is.
            std::fs::write("/proc/self/oom_score_adj", task.oom_score.to_string())
                .context(|| format!("set the OOM score to {}", task.oom_score))?;
        }
        let container = self.container;
        let mut kinds = container.namespaces;
        kinds.set(ThreadNameSpaceType::PROCESS_ID, hidden);
        move_into_thread_name_spaces(container.init.child.pidfd(), kinds)
            .context(|| "join the container's namespaces")?;
        last.as_ref().map_or(Ok(()), Affinity::apply)?;
        rustix::process::umask(rustix::fs::Mode::from(0o022));
        let account = task.user.resolve().field(|| "process.user")?;
        join_stdio(self.ends, &account, self.control, false)?;
        if let Some(home) = task.program.complete_environment(account.uid, self.home) {
            self.control.home(&home)?;
        }
        Ok(account)
    }
}

/// The agent's own OOM score, which its copies have. It is read once: the agent
/// sets it, if it does, before there are containers.
fn own_oom_score() -> Option<i64> {
    static SCORE: OnceLock<Option<i64>> = OnceLock::new();
    *SCORE.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/self/oom_score_adj").ok()?;
        text.trim().parse().ok()
    })
}
