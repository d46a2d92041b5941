//! Hooks of the OCI specification that are programs of the host.
//!
//! | hook | when | on failure |
//! |---|---|---|
//! | `prestart`, `createRuntime` | the sandbox, its network and the container's shares are there; the container's root is not yet its own | the container is not made |
//! | `createContainer`, `startContainer` | in the guest, by its agent | as there |
//! | `poststart` | the program runs | logged |
//! | `poststop` | the container is gone, or was lost with its supervisor | logged |
//!
//! A hook gets the container's state on its standard input, from a file in
//! memory that holds all of it at once: one that does not read blocks nobody.
//! What it says on its standard error is in the error.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use oci_spec::runtime as oci;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::journal::HooksRecord;
use crate::spec::ContainerSpec;
use crate::state::ContainerState;

/// How much of what a hook complained about is told.
const COMPLAINT: u64 = 4096;

/// A container's hooks on the host, and what they are told.
#[derive(Clone, Debug, Default)]
pub(super) struct HostHooks {
    create: Vec<(&'static str, oci::Hook)>,
    poststart: Vec<oci::Hook>,
    poststop: Vec<oci::Hook>,
    state: HookState,
    /// The directory that they run in.
    directory: Option<PathBuf>,
}

/// The state of a container (section "State" of the specification).
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct HookState {
    oci_version: String,
    id: String,
    status: String,
    pid: u32,
    bundle: String,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: HashMap<String, String>,
}

impl HostHooks {
    /// Takes the host's hooks out of a specification: the guest gets the rest.
    pub(super) fn take(id: &str, spec: &mut ContainerSpec) -> Self {
        let bundle = spec.bundle.clone();
        let state = HookState {
            oci_version: spec.spec.version().clone(),
            id: id.to_owned(),
            status: String::new(),
            pid: spec.on_host.pid.unwrap_or_default(),
            bundle: bundle
                .as_deref()
                .unwrap_or(Path::new("/"))
                .display()
                .to_string(),
            annotations: spec.spec.annotations().clone().unwrap_or_default(),
        };
        let mut taken = Self {
            state,
            directory: bundle,
            ..Self::default()
        };
        let Some(hooks) = spec.spec.hooks_mut() else {
            return taken;
        };
        let prestart = hooks.prestart_mut().take().unwrap_or_default();
        let create = hooks.create_runtime_mut().take().unwrap_or_default();
        let prestart = prestart.into_iter().map(|hook| ("prestart", hook));
        let create = create.into_iter().map(|hook| ("createRuntime", hook));
        taken.create = prestart.chain(create).collect();
        taken.poststart = hooks.poststart_mut().take().unwrap_or_default();
        taken.poststop = hooks.poststop_mut().take().unwrap_or_default();
        taken
    }

    fn state(&self, status: ContainerState) -> Vec<u8> {
        let state = HookState {
            status: status.to_string(),
            ..self.state.clone()
        };
        serde_json::to_vec(&state).expect("a state has nothing but strings and a number")
    }

    /// Runs those of the container's creation. The first that fails ends it.
    pub(super) async fn create(&self, context: &Context) -> Result<()> {
        let state = self.state(ContainerState::Creating);
        for (kind, hook) in &self.create {
            run(kind, hook, &state, self.directory.as_deref(), context).await?;
        }
        Ok(())
    }

    /// Runs those after the start, past failures.
    pub(super) async fn poststart(&self, context: &Context) {
        let state = self.state(ContainerState::Running);
        self.all("poststart", &self.poststart, &state, context)
            .await;
    }

    /// Runs those after the end, past failures.
    pub(super) async fn poststop(&self, context: &Context) {
        let state = self.state(ContainerState::Stopped);
        self.all("poststop", &self.poststop, &state, context).await;
    }

    /// Those after the end, to be written down: `None` where there are none.
    pub(super) fn record(&self) -> Option<HooksRecord> {
        let state = HookState {
            status: ContainerState::Stopped.to_string(),
            ..self.state.clone()
        };
        (!self.poststop.is_empty()).then(|| HooksRecord {
            container: self.state.id.clone(),
            hooks: self.poststop.clone(),
            state: serde_json::to_value(state).expect("a state has nothing but plain fields"),
            directory: self.directory.clone(),
        })
    }

    async fn all(&self, kind: &'static str, hooks: &[oci::Hook], state: &[u8], context: &Context) {
        for hook in hooks {
            let ran = run(kind, hook, state, self.directory.as_deref(), context).await;
            if let Err(error) = ran {
                log::warn!(container_id = self.state.id.as_str(), error:%; "a hook failed");
            }
        }
    }
}

/// Runs those after the end of a container whose supervisor died, past failures.
/// One without a timeout may take so long.
pub(super) async fn run_left(left: &HooksRecord, limit: Duration, context: &Context) {
    let state = left.state.to_string();
    for hook in &left.hooks {
        let directory = left.directory.as_deref();
        let running = run("poststop", hook, state.as_bytes(), directory, context);
        let ran = match hook.timeout() {
            Some(1..) => running.await,
            _ => timeout(limit, running).await.unwrap_or_else(|_| {
                let reason = format!("a poststop hook was not done within {} s", limit.as_secs());
                Err(context.error(ErrorKind::Timeout, reason))
            }),
        };
        if let Err(error) = ran {
            log::warn!(container_id = left.container.as_str(), error:%; "a hook failed");
        }
    }
}

/// Runs a hook to its end, or to that of its time.
async fn run(
    kind: &'static str,
    hook: &oci::Hook,
    state: &[u8],
    directory: Option<&Path>,
    context: &Context,
) -> Result<()> {
    let name = format!("the {kind} hook {}", hook.path().display());
    let failed = |what: &str, source: io::Error| context.io(format!("{name} {what}"), source);
    if !hook.path().is_absolute() {
        return Err(context.invalid(format!("{name} has no absolute path")));
    }
    let mut complaints = in_memory(&[]).map_err(|e| failed("cannot be run", e))?;
    let running = Running::start(hook, state, &complaints, directory);
    let mut running = running.map_err(|e| failed("cannot be run", e))?;
    let limit = hook.timeout().filter(|seconds| *seconds > 0);
    let limit = limit.and_then(|seconds| u64::try_from(seconds).ok());
    let ended = match limit.map(Duration::from_secs) {
        Some(limit) => match timeout(limit, running.ended()).await {
            Ok(ended) => ended,
            Err(_) => {
                let reason = format!("{name} was not done within {} s", limit.as_secs());
                return Err(context.error(ErrorKind::Timeout, reason));
            }
        },
        None => running.ended().await,
    };
    let status = ended.map_err(|e| failed("cannot be waited for", e))?;
    if status.success() {
        return Ok(());
    }
    Err(explain(&name, status, &mut complaints, context))
}

fn explain(name: &str, status: ExitStatus, complaints: &mut File, context: &Context) -> Error {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, signal) => format!("was ended by signal {}", signal.unwrap_or_default()),
    };
    let mut said = Vec::new();
    // What cannot be read of its own words is missing from them, no more.
    let _ = complaints
        .rewind()
        .and_then(|()| complaints.take(COMPLAINT).read_to_end(&mut said));
    let said = String::from_utf8_lossy(&said);
    let colon = if said.trim().is_empty() { "" } else { ": " };
    let reason = format!("{name} {how}{colon}{}", said.trim());
    context.error(ErrorKind::Denied, reason)
}

/// A file that is nowhere but in memory, with these bytes, at its beginning.
fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("hook", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// A hook that runs. Dropped before its end, it is killed with all it started.
struct Running {
    child: Option<Child>,
    group: Pid,
    ended: oneshot::Receiver<()>,
}

impl Running {
    fn start(
        hook: &oci::Hook,
        state: &[u8],
        complaints: &File,
        directory: Option<&Path>,
    ) -> io::Result<Self> {
        let mut command = Command::new(hook.path());
        let args = hook.args().clone().unwrap_or_default();
        if let Some((name, rest)) = args.split_first() {
            command.arg0(name).args(rest);
        }
        let env = hook.env().iter().flatten();
        let env = env.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        command
            .env_clear()
            .envs(env)
            .stdin(in_memory(state)?)
            .stdout(Stdio::null())
            .stderr(complaints.try_clone()?)
            .process_group(0);
        if let Some(directory) = directory.filter(|directory| directory.is_dir()) {
            command.current_dir(directory);
        }
        let child = command.spawn()?;
        let group = Pid::from_child(&child);
        let (sender, ended) = oneshot::channel();
        let running = Self {
            child: Some(child),
            group,
            ended,
        };
        // A thread of its own: one that waits for ever would keep a program's
        // runtime from ending.
        std::thread::Builder::new()
            .name("kata-hook".into())
            .stack_size(64 << 10)
            .spawn(move || {
                // It is left to be reaped, so that its number stays its own.
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
                while matches!(waitid(WaitId::Pid(group), options), Err(Errno::INTR)) {}
                let _ = sender.send(());
            })?;
        Ok(running)
    }

    async fn ended(&mut self) -> io::Result<ExitStatus> {
        // A thread that is gone without a word has seen the end, too.
        let _ = (&mut self.ended).await;
        match self.child.take() {
            Some(mut child) => child.wait(),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = kill_process_group(self.group, Signal::KILL);
            // It is dead, or about to be: this does not wait for long.
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
#[path = "hooks_tests.rs"]
mod tests;
