//! Further processes in a container.
//!
//! One clone and no other process: the agent clones itself into the container's
//! control group and pid namespace; the copy enters the rest of the namespaces
//! with a single setns(2) and becomes the program. Everything that can be made
//! ready is ready before the copy.

use std::rc::Rc;
use std::sync::OnceLock;

use kata_protocol::agent::{ExecProcessRequest, StartedProcess};
use kata_protocol::ttrpc::{Code, Status};
use rustix::process::Signal;
use rustix::thread::move_into_thread_name_spaces;

use super::blueprint::Task;
use super::container::{Container, Process};
use super::first_process::{become_program, hide_from_containers, join_stdio};
use super::{Containers, check_id};
use crate::process::{
    Account, Child, Context as _, Copy, CopyControl, Home, clone_self, control_pair,
    detach_from_agent, refuse,
};
use crate::stdio::{ChildEnds, Plan, Ports, WindowSize};

impl Containers {
    /// Runs a further process in a running container.
    ///
    /// # Errors
    /// When the id is taken, the container does not run, or the program cannot
    /// be run: `NOT_FOUND` if there is none, `PERMISSION_DENIED` if it is no
    /// program for that user.
    pub(crate) async fn exec(
        self: &Rc<Self>,
        request: ExecProcessRequest,
    ) -> Result<StartedProcess, Status> {
        let container = self.find(&request.container_id)?;
        check_id(&request.exec_id)?;
        container.must_run()?;
        let process = request
            .process
            .as_ref()
            .ok_or_else(|| refuse("the request has no process"))?;
        let names = request.string_user.as_ref();
        let mut task = Task::new(process, names, &container.blueprint.linux)?;
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
        let child = self.own.within_pid_of(container.init.child.pidfd(), || {
            clone_self(&copy, || {
                let work = Work {
                    container: &container,
                    ends: &child_ends,
                    control: &copy_control,
                    home: known.as_ref(),
                };
                copy_control.failed(&work.run(&mut task));
                127
            })
            .context(|| "make a process")
        })?;
        drop((child_ends, copy_control));
        let pid = child.pid().as_raw_nonzero().get().unsigned_abs();
        starting.child = Some(child.clone());
        let legacy = match control.executed().await {
            Ok(legacy) => legacy,
            Err(status) => {
                child.wait().await;
                return Err(status);
            }
        };
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
    /// Joins the container and becomes the program; returns only if it cannot.
    fn run(&self, task: &mut Task) -> Status {
        match self.join(task) {
            Ok(account) => become_program(task, &account, self.container.blueprint.filter.as_ref()),
            Err(status) => status,
        }
    }

    fn join(&self, task: &mut Task) -> Result<Account, Status> {
        hide_from_containers()?;
        detach_from_agent().context(|| "leave the agent's session")?;
        if own_oom_score() != Some(task.oom_score) {
            // Through the agent's /proc, before the container's is all there is.
            std::fs::write("/proc/self/oom_score_adj", task.oom_score.to_string())
                .context(|| format!("set the OOM score to {}", task.oom_score))?;
        }
        let container = self.container;
        move_into_thread_name_spaces(container.init.child.pidfd(), container.namespaces)
            .context(|| "join the container's namespaces")?;
        rustix::process::umask(rustix::fs::Mode::from(0o022));
        let account = task.user.resolve()?;
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
