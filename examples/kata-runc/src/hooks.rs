//! Hooks that run programs of the host (OCI runtime specification,
//! "POSIX-platform Hooks"), in the namespaces of the command that runs them.
//!
//! | hook | when | on failure |
//! |---|---|---|
//! | `prestart`, `createRuntime` | the container's namespaces are there; its machine is not | the container is not made |
//! | `poststart` | its program runs, and `start` has not answered | a warning |
//! | `poststop` | it is gone, and `delete` has not answered | a warning |
//!
//! Network hooks must run before the machine looks at the interfaces there are,
//! with a process in the network namespace. `createContainer` and
//! `startContainer` run in the guest, where their namespaces are.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use kata_sandbox::oci;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::process::{Child, Command};

use crate::failure::{Failure, Result, errno_text};
use crate::state::{Record, Status};

/// How much of what a hook complains about is told.
const COMPLAINT: usize = 4096;

/// Hooks that a container's record keeps, for commands to come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Later {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    poststart: Vec<oci::Hook>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    poststop: Vec<oci::Hook>,
}

impl Later {
    /// Those of a specification.
    pub(crate) fn of(spec: &oci::Spec) -> Self {
        let hooks = spec.hooks().as_ref();
        let listed = |kind: Option<&Option<Vec<oci::Hook>>>| kind.cloned().flatten();
        Self {
            poststart: listed(hooks.map(oci::Hooks::poststart)).unwrap_or_default(),
            poststop: listed(hooks.map(oci::Hooks::poststop)).unwrap_or_default(),
        }
    }
}

/// Whether a specification has `prestart` or `createRuntime` hooks.
pub(crate) fn prepare_anything(spec: &oci::Spec) -> bool {
    let hooks = spec.hooks().as_ref();
    let any = |kind: Option<&Option<Vec<oci::Hook>>>| {
        kind.and_then(Option::as_ref)
            .is_some_and(|listed| !listed.is_empty())
    };
    any(hooks.map(oci::Hooks::prestart)) || any(hooks.map(oci::Hooks::create_runtime))
}

/// Takes the host's hooks out of a specification, which the guest gets the rest
/// of, and runs `prestart` and `createRuntime` in their order. Answers whether
/// there were any.
///
/// # Errors
/// When one fails; those after it are not run.
pub(crate) async fn prepare(spec: &mut oci::Spec, record: &Record, pid: u32) -> Result<bool> {
    let Some(hooks) = spec.hooks_mut() else {
        return Ok(false);
    };
    hooks.set_poststart(None).set_poststop(None);
    let prestart = hooks.prestart_mut().take().unwrap_or_default();
    let create = hooks.create_runtime_mut().take().unwrap_or_default();
    let prestart = prestart.iter().map(|hook| ("prestart", hook));
    let create = create.iter().map(|hook| ("createRuntime", hook));
    let state = state(record, Status::Creating, pid);
    let mut any = false;
    for (kind, hook) in prestart.chain(create) {
        any = true;
        run(kind, hook, &state, &record.bundle).await?;
    }
    Ok(any)
}

/// Runs those after the start, past failures.
pub(crate) async fn poststart(record: &Record) {
    let pid = record.process.map_or(0, |process| process.pid);
    let state = state(record, Status::Running, pid);
    all("poststart", &record.hooks.poststart, &state, &record.bundle).await;
}

/// Runs those after the end, past failures.
pub(crate) async fn poststop(record: &Record) {
    let state = state(record, Status::Stopped, 0);
    all("poststop", &record.hooks.poststop, &state, &record.bundle).await;
}

async fn all(kind: &str, hooks: &[oci::Hook], state: &str, bundle: &Path) {
    for hook in hooks {
        if let Err(failure) = run(kind, hook, state, bundle).await {
            log::warn!("{failure}");
        }
    }
}

/// What hooks are told on their standard input (section "State").
fn state(record: &Record, status: Status, pid: u32) -> String {
    let mut state = json!({
        "ociVersion": record.oci_version,
        "id": record.id,
        "status": status,
        "pid": pid,
        "bundle": record.bundle,
        "annotations": record.annotations,
    });
    // It is there for what is created or runs.
    if pid == 0
        && let Some(state) = state.as_object_mut()
    {
        state.remove("pid");
    }
    state.to_string()
}

async fn run(kind: &str, hook: &oci::Hook, state: &str, bundle: &Path) -> Result<()> {
    let named = |failure: Failure| {
        let path = hook.path().display();
        failure.in_context(&format!("{kind} hook {path}"))
    };
    finish(hook, state, bundle).await.map_err(named)
}

async fn finish(hook: &oci::Hook, state: &str, bundle: &Path) -> Result<()> {
    if !hook.path().is_absolute() {
        return Err(Failure::new("its path is not absolute"));
    }
    let limit = match hook.timeout() {
        None => None,
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds @ 1..) => Some(Duration::from_secs(seconds)),
            _ => return Err(Failure::new("its timeout is not above zero")),
        },
    };
    let failed = |error: io::Error| Failure::new(errno_text(&error));
    // Files, not pipes: one that is not read, or stays open, holds nobody up.
    let mut complaint = in_memory("").map_err(failed)?;
    let mut running = Running::start(hook, state, &complaint, bundle).map_err(failed)?;
    let status = match limit {
        None => running.ended().await,
        Some(limit) => match tokio::time::timeout(limit, running.ended()).await {
            Ok(status) => status,
            Err(_) => {
                let killed = format!("still running after {limit:?}, and was killed");
                return Err(Failure::new(killed));
            }
        },
    };
    let status = status.map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    Err(explain(status, &mut complaint))
}

/// What a hook that failed has said, and how much more there was of it.
fn explain(status: ExitStatus, complaint: &mut File) -> Failure {
    let mut said = Vec::new();
    // What cannot be read of its words is missing from them, no more.
    let _ = complaint
        .rewind()
        .and_then(|()| complaint.read_to_end(&mut said));
    let told = &said[..said.len().min(COMPLAINT)];
    let text = String::from_utf8_lossy(told);
    let mut reason = status.to_string();
    if !text.trim().is_empty() {
        reason.push_str(": ");
        reason.push_str(text.trim());
    }
    if said.len() > told.len() {
        let more = said.len() - told.len();
        reason.push_str(&format!(" … and {more} bytes more"));
    }
    Failure::new(reason)
}

/// A file that is nowhere but in memory, with that text, at its beginning.
fn in_memory(text: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create("hook", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

/// A hook that runs. Dropped before its end, it is killed with all it started.
struct Running {
    child: Child,
    group: Option<Pid>,
}

impl Running {
    fn start(hook: &oci::Hook, state: &str, complaint: &File, bundle: &Path) -> io::Result<Self> {
        let mut command = Command::new(hook.path());
        let mut args = hook.args().iter().flatten();
        if let Some(name) = args.next() {
            command.arg0(name);
        }
        let env = hook.env().iter().flatten();
        command
            .args(args)
            .env_clear()
            .envs(env.filter_map(|entry| entry.split_once('=')))
            .current_dir(bundle)
            .stdin(in_memory(state)?)
            .stdout(Stdio::null())
            .stderr(complaint.try_clone()?)
            .process_group(0);
        let child = command.spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok());
        Ok(Self {
            group: group.and_then(Pid::from_raw),
            child,
        })
    }

    async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await;
        // It ended by itself: what it left behind is meant to go on.
        self.group = None;
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // It leads its group until it is waited for, which it was not.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
#[path = "hooks_tests.rs"]
mod tests;
