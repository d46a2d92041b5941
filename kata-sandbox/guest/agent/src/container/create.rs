//! Creating and starting containers.

use std::rc::{Rc, Weak};

use kata_protocol::agent::{
    CreateContainerRequest, LinuxDeviceCgroup, LinuxResources, StartContainerRequest,
    StartedProcess,
};
use kata_protocol::ttrpc::{Code, Status};
use log::warn;
use rustix::process::Signal;

use super::blueprint::Blueprint;
use super::container::{Container, Process};
use super::{Containers, check_id, first_process, hooks, id_map, state};
use crate::cgroup::Cgroup;
use crate::process::{
    Child, Context as _, Control, Copy, Field as _, Task, clone_self, control_pair,
};
use crate::stdio::{ChildEnds, Plan, Ports, WindowSize};

impl Containers {
    /// Makes a container whose process waits to be started.
    ///
    /// # Errors
    /// When it cannot be made; nothing is left of it then.
    pub(crate) async fn create(
        self: &Rc<Self>,
        request: CreateContainerRequest,
    ) -> Result<(), Status> {
        let id = request.container_id.clone();
        check_id(&id)?;
        let place = Place::take(self, &id)?;
        let ports = Ports {
            stdin: request.stdin_port,
            stdout: request.stdout_port,
            stderr: request.stderr_port,
        };
        let process = request.oci.as_ref().and_then(|spec| spec.process.as_ref());
        let terminal = process
            .filter(|process| process.terminal)
            .map(|process| WindowSize::from(process.console_size.as_ref()));
        let sandbox = Rc::clone(&self.sandbox.borrow());
        let of_container = |id: &str| Ok(self.find(id)?.init.child.pid());
        let blueprint = Blueprint::new(request, &sandbox, of_container)?;
        let streams = Plan::new(&self.config.streams, ports, terminal).await?;

        let root = &self.config.cgroup_root;
        let cgroup = Cgroup::create(root, &blueprint.linux.cgroups_path, &id)?;
        let mut unfinished = Unfinished {
            place: Some(place),
            cgroup: Rc::new(cgroup),
            child: None,
        };
        match self.make(&mut unfinished, blueprint, streams).await {
            Ok(container) => {
                if let Some(place) = unfinished.place.take() {
                    place.fill(container);
                }
                Ok(())
            }
            Err(status) => {
                if let Err(error) = unfinished.undo().await {
                    warn!(container = id.as_str(), error:%; "cannot undo an unfinished container");
                }
                Err(status)
            }
        }
    }

    async fn make(
        self: &Rc<Self>,
        unfinished: &mut Unfinished,
        blueprint: Blueprint,
        streams: Plan,
    ) -> Result<Rc<Container>, Status> {
        let cgroup = Rc::clone(&unfinished.cgroup);
        limit(&cgroup, &blueprint)?;
        let (child_ends, agent_ends) = streams.open(self.config.pipe_size)?;
        // In a user namespace of its own it may look only into what is there.
        if blueprint.task.privileges.may_trace() && blueprint.namespaces.ids.is_none() {
            self.tracers.set(true);
        }
        let (child, control) = self.first_process(&cgroup, &blueprint, &child_ends)?;
        unfinished.child = Some(child.clone());
        drop(child_ends);

        let pid = child.pid().as_raw_nonzero();
        if let Some((uids, gids)) = &blueprint.namespaces.ids {
            id_map::write(child.pid(), uids, gids)
                .field(|| "linux.uidMappings, linux.gidMappings")?;
        }
        std::fs::write(
            format!("/proc/{pid}/oom_score_adj"),
            blueprint.task.oom_score.to_string(),
        )
        .context(|| {
            let score = blueprint.task.oom_score;
            format!("process.oomScoreAdj: set the OOM score to {score}")
        })?;
        if blueprint.namespaces.ids.is_some() {
            control.go()?;
        }
        if blueprint.has_early_hooks() {
            control.ready().await?;
            self.early_hooks(&blueprint, pid.get()).await?;
            control.go()?;
        }
        let master = control.ready().await?;
        let stdio = agent_ends.connect(master)?;
        self.oom.add(&blueprint.id, &cgroup)?;
        let container = Rc::new(Container {
            init: Process::new(child, stdio, cgroup.oom_kills()),
            namespaces: blueprint.namespaces.to_enter(),
            blueprint,
            cgroup,
            execs: std::cell::RefCell::default(),
            starting: std::cell::RefCell::default(),
            control: Some(control).into(),
            started: false.into(),
            paused: false.into(),
            home: None.into(),
        });
        container.follow(&container.init);
        Ok(container)
    }

    fn first_process(
        &self,
        cgroup: &Cgroup,
        blueprint: &Blueprint,
        ends: &ChildEnds,
    ) -> Result<(Child, Control), Status> {
        let (control, copy_control) = control_pair()?;
        let mut keep = ends.keep();
        keep.extend(blueprint.keep());
        keep.push(std::os::fd::AsRawFd::as_raw_fd(&copy_control));
        let copy = Copy {
            namespaces: blueprint.namespaces.new,
            cgroup: Some(cgroup.fd()),
            keep,
        };
        let child = blueprint.namespaces.within(&self.own, || {
            clone_self(&copy, || {
                copy_control.failed(&first_process::run(blueprint, ends, &copy_control));
                127
            })
            .context(|| "make the container's first process")
        })?;
        Ok((child, control))
    }

    /// Hooks that run in the agent's namespaces while the container is made.
    async fn early_hooks(&self, blueprint: &Blueprint, pid: i32) -> Result<(), Status> {
        let state = blueprint.state(state::Status::Creating, pid);
        let work = || {
            hooks::run_all(&blueprint.hooks.prestart, &state).field(|| "hooks.prestart")?;
            hooks::run_all(&blueprint.hooks.create_runtime, &state)
                .field(|| "hooks.createRuntime")?;
            Ok(Vec::new())
        };
        Task::start(&[], work)?.result().await.map(drop)
    }

    /// Lets a container's process become its program.
    ///
    /// # Errors
    /// When it was started before or is paused, or its program cannot be run:
    /// `NOT_FOUND` if there is none, `PERMISSION_DENIED` if it is no program for
    /// it. The container has stopped then.
    pub(crate) async fn start(
        self: &Rc<Self>,
        request: StartContainerRequest,
    ) -> Result<StartedProcess, Status> {
        let container = self.find(&request.container_id)?;
        if container.paused.get() {
            // It would be waited for until somebody else let it go on.
            container.must_be_live()?;
        }
        let control = container.control.borrow_mut().take().ok_or_else(|| {
            let message = format!("container {:?} was started before", request.container_id);
            Status::new(Code::FailedPrecondition, message)
        })?;
        if container.init.child.exited().is_some() {
            let message = format!("container {:?} has stopped", request.container_id);
            return Err(Status::new(Code::FailedPrecondition, message));
        }
        let unstarted = Unstarted(Some(&container));
        control.go()?;
        let executed = control.executed().await;
        unstarted.settled();
        executed?;
        container.started.set(true);
        let pid = container.init.child.pid().as_raw_nonzero().get();
        if !container.blueprint.hooks.poststart.is_empty() {
            let state = container.blueprint.state(state::Status::Running, pid);
            let hooks = &container.blueprint.hooks.poststart;
            let done = Task::start(&[], || hooks::run_all(hooks, &state).map(|()| Vec::new()))?;
            // The container runs; the specification wants a warning.
            if let Err(status) = done.result().await {
                warn!(container = request.container_id.as_str(), error:% = status; "poststart");
            }
        }
        Ok(StartedProcess {
            pid: pid.unsigned_abs(),
        })
    }
}

/// A container whose program is about to run. Should nobody wait for it any
/// longer, it has stopped, rather than start at a time that nobody knows.
struct Unstarted<'a>(Option<&'a Container>);

impl Unstarted<'_> {
    /// It runs, or it has ended by itself.
    fn settled(mut self) {
        self.0 = None;
    }
}

impl Drop for Unstarted<'_> {
    fn drop(&mut self) {
        let Some(container) = self.0 else { return };
        container.init.note_kill();
        if let Err(error) = container.cgroup.kill() {
            warn!(container = container.blueprint.id.as_str(), error:%; "cannot end what did not start");
        }
    }
}

/// Limits and devices of a new container.
fn limit(cgroup: &Cgroup, blueprint: &Blueprint) -> Result<(), Status> {
    let none = LinuxResources::default();
    let resources = blueprint.linux.resources.as_ref().unwrap_or(&none);
    cgroup.limit(resources).field(|| "linux.resources")?;
    if !resources.devices.is_empty() {
        let allowed = cgroup.allow_devices(&resources.devices);
        return allowed.field(|| "linux.resources.devices");
    }
    // Without rules of its own it may use what it is given.
    let given = blueprint
        .linux
        .devices
        .iter()
        .filter(|device| device.r#type != "p");
    let rules: Vec<_> = given
        .map(|device| LinuxDeviceCgroup {
            allow: true,
            r#type: device.r#type.clone(),
            major: device.major,
            minor: device.minor,
            access: "rwm".into(),
        })
        .collect();
    cgroup.allow_devices(&rules).or_else(|status| {
        // Nobody asked for a limit, and this kernel has none.
        warn!(container = blueprint.id.as_str(), error:% = status; "devices are not limited");
        Ok(())
    })
}

/// An id that is taken while its container is being made; free again if that
/// fails.
struct Place {
    containers: Weak<Containers>,
    id: String,
    filled: bool,
}

impl Place {
    fn take(containers: &Rc<Containers>, id: &str) -> Result<Self, Status> {
        let mut all = containers.all.borrow_mut();
        if all.contains_key(id) {
            let message = format!("there is a container {id:?} already");
            return Err(Status::new(Code::AlreadyExists, message));
        }
        all.insert(id.to_owned(), None);
        Ok(Self {
            containers: Rc::downgrade(containers),
            id: id.to_owned(),
            filled: false,
        })
    }

    fn fill(mut self, container: Rc<Container>) {
        self.filled = true;
        if let Some(containers) = self.containers.upgrade() {
            containers
                .all
                .borrow_mut()
                .insert(self.id.clone(), Some(container));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.filled
            && let Some(containers) = self.containers.upgrade()
        {
            containers.all.borrow_mut().remove(&self.id);
        }
    }
}

/// What there is of a container that is being made; undone if that fails, or
/// if the caller goes away. Its id is not free before.
struct Unfinished {
    place: Option<Place>,
    cgroup: Rc<Cgroup>,
    child: Option<Child>,
}

impl Unfinished {
    async fn undo(mut self) -> Result<(), Status> {
        let (place, cgroup, child) = (
            self.place.take(),
            Rc::clone(&self.cgroup),
            self.child.take(),
        );
        cgroup.kill()?;
        if let Some(child) = child {
            // It may never have come as far as the control group.
            child
                .signal(Signal::KILL)
                .context(|| "kill a process of ours")?;
            child.wait().await;
        }
        cgroup.emptied().await?;
        cgroup.remove()?;
        drop(place);
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else {
            return;
        };
        let left = Self {
            place: Some(place),
            cgroup: Rc::clone(&self.cgroup),
            child: self.child.take(),
        };
        tokio::task::spawn_local(async move {
            if let Err(error) = left.undo().await {
                warn!(error:%; "cannot undo an unfinished container");
            }
        });
    }
}
