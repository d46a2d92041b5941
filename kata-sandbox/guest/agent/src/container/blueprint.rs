//! A container's specification, checked and in the form its process needs.

use std::os::fd::{AsRawFd as _, RawFd};

use kata_protocol::agent::{CreateContainerRequest, Hooks, Linux, Process, Spec, StringUser};
use kata_protocol::ttrpc::Status;
use rustix::process::Pid;

use super::hooks;
use super::mounts::{self, Mapped};
use super::namespaces::Namespaces;
use super::sandbox::Sandbox;
use super::state::{self, State};
use crate::process::{Affinity, Field as _, Privileges, Program, Scheduling, Wanted, refuse};
use crate::seccomp::{self, Filter};

/// What one process is to be.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) program: Program,
    pub(super) user: Wanted,
    pub(super) privileges: Privileges,
    pub(super) oom_score: i64,
    /// For a further process: while it joins the container, and from then on.
    pub(super) affinity: [Option<Affinity>; 2],
}

impl Task {
    /// # Errors
    /// When the specification makes no sense.
    pub(super) fn new(
        process: &Process,
        names: Option<&StringUser>,
        linux: &Linux,
    ) -> Result<Self, Status> {
        let scheduling = Scheduling::new(
            process.scheduler.as_ref(),
            process.io_priority.as_ref(),
            linux.personality.as_ref(),
        )?;
        let wanted = process.exec_cpu_affinity.clone().unwrap_or_default();
        let affinity = |list: &str| Affinity::parse(list).field(|| "process.execCPUAffinity");
        let affinity = [affinity(&wanted.initial)?, affinity(&wanted.r#final)?];
        Ok(Self {
            program: Program::new(process)?,
            user: Wanted::new(process.user.as_ref(), names),
            privileges: Privileges::new(process, scheduling)?,
            oom_score: process.oom_score_adj,
            affinity,
        })
    }
}

/// All that a container's first process needs to make the container.
#[derive(Debug)]
pub(super) struct Blueprint {
    pub(super) id: String,
    pub(super) version: String,
    pub(super) annotations: std::collections::BTreeMap<String, String>,
    pub(super) root: String,
    pub(super) read_only: bool,
    pub(super) hostname: String,
    pub(super) domainname: String,
    pub(super) mounts: Vec<Mapped>,
    pub(super) linux: Linux,
    pub(super) hooks: Hooks,
    pub(super) namespaces: Namespaces,
    pub(super) task: Task,
    pub(super) filter: Option<Filter>,
}

impl Blueprint {
    /// # Errors
    /// When the specification makes no sense.
    pub(super) fn new(
        request: CreateContainerRequest,
        sandbox: &Sandbox,
        of_container: impl Fn(&str) -> Result<Pid, Status>,
    ) -> Result<Self, Status> {
        let spec: Spec = request
            .oci
            .ok_or_else(|| refuse("the request has no specification"))?;
        let process = spec
            .process
            .ok_or_else(|| refuse("the specification has no process"))?;
        let root = spec
            .root
            .ok_or_else(|| refuse("the specification has no root"))?;
        let linux = spec.linux.unwrap_or_default();
        let names = (spec.hostname.as_str(), spec.domainname.as_str());
        let namespaces =
            Namespaces::plan(&linux, names, request.sandbox_pidns, sandbox, of_container)
                .field(|| "linux.namespaces")?;
        let mut all = spec.hooks.unwrap_or_default();
        let guest = |kind| hooks::of_guest(sandbox.guest_hooks.as_deref(), kind);
        all.prestart.extend(guest("prestart"));
        all.poststart.extend(guest("poststart"));
        all.poststop.extend(guest("poststop"));
        Ok(Self {
            task: Task::new(&process, request.string_user.as_ref(), &linux)?,
            filter: seccomp::compile(linux.seccomp.as_ref()).field(|| "linux.seccomp")?,
            mounts: mounts::plan(spec.mounts, &linux)?,
            id: request.container_id,
            version: spec.version,
            annotations: spec.annotations,
            root: root.path,
            read_only: root.readonly,
            hostname: spec.hostname,
            domainname: spec.domainname,
            hooks: all,
            namespaces,
            linux,
        })
    }

    /// What hooks are told.
    pub(super) fn state(&self, status: state::Status, pid: i32) -> String {
        let bundle = self.root.strip_suffix("/rootfs").unwrap_or(&self.root);
        State {
            oci_version: &self.version,
            id: &self.id,
            status,
            pid,
            bundle,
            annotations: &self.annotations,
        }
        .to_json()
    }

    /// Descriptors that the container's first process needs.
    pub(super) fn keep(&self) -> Vec<RawFd> {
        let mounts = self.mounts.iter().filter_map(Mapped::keep);
        mounts
            .chain(self.namespaces.keep().map(|fd| fd.as_raw_fd()))
            .collect()
    }

    /// Whether the agent runs hooks while the container is being made.
    pub(super) fn has_early_hooks(&self) -> bool {
        !self.hooks.prestart.is_empty() || !self.hooks.create_runtime.is_empty()
    }
}
