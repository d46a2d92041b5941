//! Hooks, run.

use std::time::Instant;

use super::*;
use crate::Rootfs;

fn context() -> Context {
    Context::new("create container", "s/c")
}

/// A container with such hooks.
fn hooks(json: serde_json::Value) -> (HostHooks, ContainerSpec) {
    let mut spec = ContainerSpec::new(Rootfs::Dir("/".into()))
        .host_pid(77)
        .annotation("a", "b")
        .edit_oci(|spec| {
            spec.set_hooks(Some(serde_json::from_value(json).unwrap()));
        });
    (HostHooks::take("c", &mut spec), spec)
}

fn shell(script: &str) -> serde_json::Value {
    serde_json::json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["WORD=here"]})
}

#[tokio::test]
async fn a_hook_gets_the_state_and_only_its_own_environment() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let script = format!("{{ echo $WORD $HOME; cat; }} > {}", out.display());
    let (hooks, _) = hooks(serde_json::json!({"createRuntime": [shell(&script)]}));
    hooks.create(&context()).await.unwrap();
    let said = std::fs::read_to_string(out).unwrap();
    let (environment, state) = said.split_once('\n').unwrap();
    assert_eq!(environment, "here");
    let state: serde_json::Value = serde_json::from_str(state).unwrap();
    let expected = serde_json::json!({
        "ociVersion": "1.2.0", "id": "c", "status": "creating", "pid": 77, "bundle": "/",
        "annotations": {"a": "b"},
    });
    assert_eq!(state, expected);
}

#[tokio::test]
async fn hooks_run_in_order_and_the_first_that_fails_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let say = |word: &str| shell(&format!("echo {word} >> {}", out.display()));
    let (hooks, _) = hooks(serde_json::json!({
        "createRuntime": [say("second"), shell("echo why >&2; exit 3"), say("never")],
        "prestart": [say("first")],
    }));
    let error = hooks.create(&context()).await.unwrap_err();
    let expected = "the createRuntime hook /bin/sh ended with status 3: why";
    assert!(error.to_string().contains(expected), "{error}");
    assert_eq!(std::fs::read_to_string(out).unwrap(), "first\nsecond\n");
}

#[tokio::test]
async fn a_hook_that_takes_too_long_is_killed_with_what_it_started() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let mut slow = shell(&format!("echo $$ > {}; sleep 1000; true", out.display()));
    slow["timeout"] = 1.into();
    let (hooks, _) = hooks(serde_json::json!({"prestart": [slow]}));
    let began = Instant::now();
    let error = hooks.create(&context()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("prestart hook"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(500));
    let pid = std::fs::read_to_string(out)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let group = Pid::from_raw(pid).unwrap();
    // Nobody else reaps a grandchild at once: as a zombie it does no harm.
    let gone = rustix::process::test_kill_process_group(group).is_err();
    let zombies = std::fs::read_to_string(format!("/proc/{pid}/stat")).is_err();
    assert!(gone || zombies, "the group {pid} lives on");
}

#[tokio::test]
async fn hooks_afterwards_go_on_past_failures() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let keep = shell(&format!("cat > {}", out.display()));
    let missing = serde_json::json!({"path": "/nowhere/hook"});
    let (hooks, _) = hooks(serde_json::json!({"poststop": [missing, shell("exit 1"), keep]}));
    hooks.poststop(&context()).await;
    let state = std::fs::read_to_string(out).unwrap();
    assert!(state.contains(r#""status":"stopped""#), "{state}");
    hooks.poststart(&context()).await;
}

#[tokio::test]
async fn a_hook_that_cannot_be_run_is_named() {
    let (missing, _) = hooks(serde_json::json!({"prestart": [{"path": "/nowhere/hook"}]}));
    let error = missing.create(&context()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("/nowhere/hook"), "{error}");
    let (relative, _) = hooks(serde_json::json!({"prestart": [{"path": "hook"}]}));
    let error = relative.create(&context()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}

#[test]
fn the_guest_is_left_with_its_own_hooks() {
    let one = serde_json::json!([{"path": "/h"}]);
    let (hooks, spec) = hooks(serde_json::json!({
        "prestart": one, "createRuntime": one, "createContainer": one, "startContainer": one,
        "poststart": one, "poststop": one,
    }));
    assert_eq!(hooks.create.len(), 2);
    let left = serde_json::to_value(spec.spec.hooks().as_ref().unwrap()).unwrap();
    let left: Vec<_> = left.as_object().unwrap().keys().cloned().collect();
    assert_eq!(left, ["createContainer", "startContainer"]);
}
