//! Calls about containers that exist.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

use kata_protocol::agent::{
    CloseStdinRequest, PauseContainerRequest, ReadStreamRequest, ReadStreamResponse,
    ResumeContainerRequest, SignalProcessRequest, StatsContainerRequest, StatsContainerResponse,
    TtyWinResizeRequest, UpdateContainerRequest, WaitProcessRequest, WaitProcessResponse,
    WriteStreamRequest, WriteStreamResponse,
};
use kata_protocol::ttrpc::{Code, Status};
use rustix::process::Signal;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::Containers;
use super::container::{Container, Process};
use crate::process::{Context as _, Field as _, Task, refuse, signal};
use crate::stdio::WindowSize;

/// How long a status that was given can be asked for again: the connection may
/// have been lost on the way.
const KEPT: Duration = Duration::from_secs(60);

impl Containers {
    /// Signals a process, or all of a container's if none is named.
    ///
    /// # Errors
    /// When there is no such process or signal. One that has ended takes any
    /// signal, until its status is collected.
    pub(crate) async fn signal(&self, request: SignalProcessRequest) -> Result<(), Status> {
        let container = self.find(&request.container_id)?;
        let number = i32::try_from(request.signal).unwrap_or(-1);
        let signal = signal(number)
            .ok_or_else(|| refuse(format!("there is no signal {}", request.signal)))?;
        if !request.exec_id.is_empty() {
            let process = container.process(&request.exec_id)?;
            if process.collected.get() {
                let message = format!("process {:?} has ended and was collected", request.exec_id);
                return Err(Status::new(Code::NotFound, message));
            }
            let is_init = Rc::ptr_eq(&process, &container.init);
            let ends = is_init && container.would_ignore(signal);
            return process.signal(if ends { Signal::KILL } else { signal });
        }
        if container.init.child.exited().is_some() {
            return Ok(());
        }
        if signal == Signal::KILL || container.would_ignore(signal) {
            container.init.note_kill();
            container
                .execs
                .borrow()
                .values()
                .for_each(|process| process.note_kill());
            return container.cgroup.kill();
        }
        container.cgroup.signal(signal)
    }

    /// Waits until a process has ended. Any number may wait; an exec'd process
    /// is forgotten some time after its status was given.
    ///
    /// # Errors
    /// When there is no such process.
    pub(crate) async fn wait(
        &self,
        request: WaitProcessRequest,
    ) -> Result<WaitProcessResponse, Status> {
        let container = self.find(&request.container_id)?;
        let process = container.process(&request.exec_id)?;
        let response = process.wait(&container.cgroup).await;
        let is_init = Rc::ptr_eq(&process, &container.init);
        if !is_init && !process.collected.replace(true) {
            tokio::task::spawn_local(forget(
                Rc::downgrade(&container),
                Rc::downgrade(&process),
                request.exec_id,
            ));
        }
        Ok(response)
    }

    /// Changes a container's limits.
    ///
    /// # Errors
    /// When a value makes no sense, or the kernel lacks what a limit needs.
    pub(crate) async fn update(&self, request: UpdateContainerRequest) -> Result<(), Status> {
        let container = self.find(&request.container_id)?;
        let resources = request.resources.unwrap_or_default();
        container
            .cgroup
            .limit(&resources)
            .field(|| "linux.resources")?;
        if !resources.devices.is_empty() {
            container.cgroup.allow_devices(&resources.devices)?;
        }
        Ok(())
    }

    /// What a container has used.
    ///
    /// # Errors
    /// When there is no such container.
    pub(crate) async fn stats(
        &self,
        request: StatsContainerRequest,
    ) -> Result<StatsContainerResponse, Status> {
        let container = self.find(&request.container_id)?;
        let cgroup_stats = Some(container.cgroup.stats());
        Ok(StatsContainerResponse {
            cgroup_stats,
            network_stats: Vec::new(),
        })
    }

    /// Stops a container's processes where they are; its first one need not have
    /// been started.
    ///
    /// # Errors
    /// When it has stopped, or is paused.
    pub(crate) async fn pause(&self, request: PauseContainerRequest) -> Result<(), Status> {
        let container = self.find(&request.container_id)?;
        container.must_be_live()?;
        container.paused.set(true);
        container
            .cgroup
            .freeze(true)
            .await
            .inspect_err(|_| container.paused.set(false))
    }

    /// Lets a paused container's processes go on; one that is not paused does.
    ///
    /// # Errors
    /// When there is no such container.
    pub(crate) async fn resume(&self, request: ResumeContainerRequest) -> Result<(), Status> {
        let container = self.find(&request.container_id)?;
        container.cgroup.freeze(false).await?;
        container.paused.set(false);
        Ok(())
    }

    /// A process of a container, by the ids that a call names.
    fn process(&self, container: &str, exec: &str) -> Result<Rc<Process>, Status> {
        self.find(container)?.process(exec)
    }

    /// Writes to a process's standard input.
    ///
    /// # Errors
    /// When it is closed, or a stream.
    pub(crate) async fn write_stdin(
        &self,
        request: WriteStreamRequest,
    ) -> Result<WriteStreamResponse, Status> {
        let process = self.process(&request.container_id, &request.exec_id)?;
        process.stdio.write_stdin(&request.data).await?;
        let len = u32::try_from(request.data.len()).unwrap_or(u32::MAX);
        Ok(WriteStreamResponse { len })
    }

    /// Reads a process's standard output; no data means its end.
    ///
    /// # Errors
    /// When it is a stream.
    pub(crate) async fn read_stdout(
        &self,
        request: ReadStreamRequest,
    ) -> Result<ReadStreamResponse, Status> {
        let process = self.process(&request.container_id, &request.exec_id)?;
        let data = process.stdio.read_stdout(request.len).await?;
        Ok(ReadStreamResponse { data })
    }

    /// Reads a process's standard error; no data means its end.
    ///
    /// # Errors
    /// When it is a stream.
    pub(crate) async fn read_stderr(
        &self,
        request: ReadStreamRequest,
    ) -> Result<ReadStreamResponse, Status> {
        let process = self.process(&request.container_id, &request.exec_id)?;
        let data = process.stdio.read_stderr(request.len).await?;
        Ok(ReadStreamResponse { data })
    }

    /// Ends a process's standard input.
    ///
    /// # Errors
    /// When there is no such process.
    pub(crate) async fn close_stdin(&self, request: CloseStdinRequest) -> Result<(), Status> {
        let process = self.process(&request.container_id, &request.exec_id)?;
        process.stdio.close_stdin().await
    }

    /// Changes the size of a process's terminal.
    ///
    /// # Errors
    /// When it has none.
    pub(crate) async fn resize(&self, request: TtyWinResizeRequest) -> Result<(), Status> {
        let process = self.process(&request.container_id, &request.exec_id)?;
        process
            .stdio
            .resize(WindowSize::new(request.row, request.column))
    }

    /// Runs blocking `work` inside a container's mount namespace and root, in a
    /// copy of the agent that keeps the descriptors `keep`. What it uses counts
    /// as the container's.
    ///
    /// # Errors
    /// When the container has stopped or is paused, or what `work` returned.
    pub(crate) async fn in_container(
        &self,
        id: &str,
        keep: &[BorrowedFd<'_>],
        work: impl FnOnce() -> Result<(), String>,
    ) -> Result<(), Status> {
        let container = self.find(id)?;
        if container.paused.get() {
            // Nothing in its control group would go on.
            let message = format!("container {id:?} is paused");
            return Err(Status::new(Code::FailedPrecondition, message));
        }
        let pidfd = container.init.child.pidfd();
        let mut keep = keep.to_vec();
        keep.push(pidfd.as_fd());
        let mut kinds = ThreadNameSpaceType::MOUNT;
        kinds.set(
            ThreadNameSpaceType::USER,
            container.blueprint.namespaces.ids.is_some(),
        );
        let work = || {
            move_into_thread_name_spaces(pidfd, kinds)
                .context(|| format!("enter container {id:?}, which must not have stopped"))?;
            work().map_err(|message| Status::new(Code::Internal, message))?;
            Ok(Vec::new())
        };
        let cgroup = Some(container.cgroup.fd());
        Task::start_in(cgroup, &keep, work)?
            .result()
            .await
            .map(drop)
    }
}

impl Container {
    /// A pid namespace's first process gets no signal that it has no handler
    /// for. One that is to end it must end it all the same.
    fn would_ignore(&self, signal: Signal) -> bool {
        if signal != Signal::TERM || !self.blueprint.namespaces.own_pid {
            return false;
        }
        let pid = self.init.child.pid().as_raw_nonzero();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let mask = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
                .unwrap_or(0)
        };
        // Blocked ones may be waited for.
        let minded = mask("SigCgt:") | mask("SigIgn:") | mask("SigBlk:");
        minded & 1 << (signal.as_raw() - 1) == 0
    }
}

async fn forget(container: Weak<Container>, process: Weak<Process>, exec_id: String) {
    tokio::time::sleep(KEPT).await;
    if let (Some(container), Some(process)) = (container.upgrade(), process.upgrade()) {
        let mut execs = container.execs.borrow_mut();
        // Its id may be another's by now.
        if execs
            .get(&exec_id)
            .is_some_and(|there| Rc::ptr_eq(there, &process))
        {
            execs.remove(&exec_id);
        }
    }
}
