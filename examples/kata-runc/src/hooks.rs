//! Hooks that prepare a container's network: they must run before its virtual
//! machine looks at the interfaces there are, with a process in the network
//! namespace. All other hooks are the library's.

use std::process::Stdio;
use std::time::Duration;

use kata_sandbox::oci;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::failure::{Failure, Result, errno_text};
use crate::state::Record;

/// How long a hook may take that has no timeout of its own.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How much of what a hook complains about is told.
const COMPLAINT: u64 = 4096;

/// Takes `prestart` and `createRuntime` out of a specification and runs them,
/// in their order, as the OCI runtime specification has it ("POSIX-platform
/// Hooks"). Answers whether there were any.
///
/// # Errors
/// When one fails; those after it are not run.
pub(crate) async fn prepare(spec: &mut oci::Spec, record: &Record, pid: u32) -> Result<bool> {
    let Some(hooks) = spec.hooks_mut() else {
        return Ok(false);
    };
    let prestart = hooks.prestart_mut().take().unwrap_or_default();
    let create = hooks.create_runtime_mut().take().unwrap_or_default();
    let prestart = prestart.iter().map(|hook| ("prestart", hook));
    let create = create.iter().map(|hook| ("createRuntime", hook));
    let mut any = false;
    let state = json!({
        "ociVersion": record.oci_version,
        "id": record.id,
        "status": "creating",
        "pid": pid,
        "bundle": record.bundle,
        "annotations": record.annotations,
    })
    .to_string();
    for (kind, hook) in prestart.chain(create) {
        any = true;
        run(hook, &state).await.map_err(|failure| {
            failure.in_context(&format!("{kind} hook {}", hook.path().display()))
        })?;
    }
    Ok(any)
}

async fn run(hook: &oci::Hook, state: &str) -> Result<()> {
    let limit = hook
        .timeout()
        .and_then(|seconds| u64::try_from(seconds).ok());
    let limit = limit.map_or(TIMEOUT, Duration::from_secs);
    // Dropped at its deadline, which kills it.
    tokio::time::timeout(limit, finish(hook, state))
        .await
        .map_err(|_| Failure::new(format!("still running after {limit:?}, and was killed")))?
}

async fn finish(hook: &oci::Hook, state: &str) -> Result<()> {
    let failed = |error: std::io::Error| Failure::new(errno_text(&error));
    let mut command = Command::new(hook.path());
    let mut args = hook.args().iter().flatten();
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command.args(args).env_clear().kill_on_drop(true);
    let env = hook.env().iter().flatten();
    command.envs(env.filter_map(|entry| entry.split_once('=')));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read its input.
        drop(stdin.write_all(state.as_bytes()).await);
    }
    let mut complaint = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr
            .take(COMPLAINT)
            .read_to_end(&mut complaint)
            .await
            .map_err(failed)?;
    }
    let status = child.wait().await.map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&complaint);
    Err(Failure::new(format!("{status}: {}", complaint.trim_end())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::record;

    fn spec(hooks: &str) -> oci::Spec {
        serde_json::from_str(&format!(
            "{{\"ociVersion\": \"1.0.2\", \"hooks\": {hooks}}}"
        ))
        .unwrap()
    }

    #[tokio::test]
    async fn a_hook_has_the_state_on_its_input_and_its_own_environment() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state");
        let script = format!("cat > {}; test \"$0 $A\" = 'name 1'", file.display());
        let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script, "name"], "env": ["A=1", "PATH=/bin"]});
        let mut spec = spec(&json!({"prestart": [hook], "poststop": [hook]}).to_string());
        assert_eq!(prepare(&mut spec, &record(), 42).await, Ok(true));
        let state: serde_json::Value =
            serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        assert_eq!((&state["pid"], &state["id"]), (&json!(42), &json!("c1")));
        let left = spec.hooks().as_ref().unwrap();
        assert!(left.prestart().is_none() && left.poststop().is_some());
        assert_eq!(prepare(&mut spec, &record(), 42).await, Ok(false));
    }

    #[tokio::test]
    async fn a_hook_that_fails_or_hangs_is_told_with_its_words() {
        let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", "echo sorry >&2; exit 3"]});
        let mut failing = spec(&json!({"createRuntime": [hook]}).to_string());
        let error = prepare(&mut failing, &record(), 1)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("createRuntime hook /bin/sh") && error.contains("sorry"),
            "{error}"
        );
        let hook = json!({"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1});
        let mut hanging = spec(&json!({"prestart": [hook]}).to_string());
        let error = prepare(&mut hanging, &record(), 1)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("killed"), "{error}");
    }
}
