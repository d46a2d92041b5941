//! Hooks, run for real.

use super::*;
use crate::state::tests::record as plain;

/// A container in that bundle.
fn record(bundle: &Path) -> Record {
    Record {
        bundle: bundle.to_owned(),
        ..plain()
    }
}

fn spec(hooks: &serde_json::Value) -> oci::Spec {
    serde_json::from_value(json!({"ociVersion": "1.0.2", "hooks": hooks})).unwrap()
}

fn shell(script: &str) -> serde_json::Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script, "name"], "env": ["A=1", "PATH=/bin"]})
}

async fn fault(hook: serde_json::Value) -> String {
    let mut failing = spec(&json!({"createRuntime": [hook]}));
    let failure = prepare(&mut failing, &record(Path::new("/")), 1).await;
    failure.unwrap_err().to_string()
}

#[tokio::test]
async fn a_hook_has_the_state_the_bundle_and_its_own_environment() {
    let bundle = tempfile::tempdir().unwrap();
    let hook = shell("cat > state; test \"$0 $A$HOME\" = 'name 1'");
    let mut spec = spec(&json!({"prestart": [hook], "poststop": [hook]}));
    let mut record = record(bundle.path());
    record.hooks = Later::of(&spec);
    assert_eq!(prepare(&mut spec, &record, 42).await, Ok(true));
    let told = || -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(bundle.path().join("state")).unwrap()).unwrap()
    };
    assert_eq!((&told()["pid"], &told()["id"]), (&json!(42), &json!("c1")));
    assert_eq!(told()["status"], "creating");
    // The guest is not told of them, and they are not lost.
    assert!(spec.hooks().as_ref().unwrap().poststop().is_none());
    assert_eq!(prepare(&mut spec, &record, 42).await, Ok(false));
    poststop(&record).await;
    assert_eq!(
        (&told()["pid"], &told()["status"]),
        (&json!(null), &json!("stopped"))
    );
}

#[tokio::test]
async fn a_hook_that_fails_is_told_with_its_words_and_those_left_out_are_counted() {
    let error = fault(shell("echo sorry >&2; exit 3")).await;
    assert!(
        error.starts_with("createRuntime hook /bin/sh: exit status: 3: sorry"),
        "{error}"
    );
    let error = fault(shell("head -c 5000 /dev/zero | tr '\\0' x >&2; exit 3")).await;
    assert!(error.ends_with("x … and 904 bytes more"), "{error}");
    assert_eq!(
        fault(shell("exit 3")).await,
        "createRuntime hook /bin/sh: exit status: 3"
    );
}

#[tokio::test]
async fn a_hook_that_hangs_is_killed_with_all_that_it_started() {
    let directory = tempfile::tempdir().unwrap();
    let (fifo, hook) = (directory.path().join("fifo"), "sleep 1000 > fifo & wait");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let mut hook = shell(&format!("cd {}; {hook}", directory.path().display()));
    hook["timeout"] = json!(1);
    // It ends when the last process that could write to it has ended.
    let end = std::thread::spawn(move || std::fs::read(fifo).unwrap());
    let error = fault(hook).await;
    assert!(error.contains("killed"), "{error}");
    assert!(end.join().unwrap().is_empty());
}

#[tokio::test]
async fn what_a_hook_leaves_running_is_not_waited_for() {
    let mut hanging = spec(&json!({"prestart": [shell("sleep 5 & exit 0")]}));
    let began = std::time::Instant::now();
    prepare(&mut hanging, &record(Path::new("/")), 1)
        .await
        .unwrap();
    assert!(began.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn a_hook_without_an_absolute_path_or_with_no_time_is_refused() {
    let error = fault(json!({"path": "sh"})).await;
    assert!(error.contains("not absolute"), "{error}");
    let error = fault(json!({"path": "/bin/true", "timeout": 0})).await;
    assert!(error.contains("not above zero"), "{error}");
}
