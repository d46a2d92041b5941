//! Many sandboxes at once, and starts given up at any moment.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Host, leftovers::Census};
use kata_sandbox::{MemorySize, SandboxState};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_sandboxes_start_at_once_and_leave_nothing() {
    let Some(host) = Host::new() else { return };
    let before = Census::take(&host.state_dir());
    let runtime = host.runtime();
    let mut starting = JoinSet::new();
    for number in 0..20 {
        let builder = runtime
            .sandbox(format!("many-{number}"))
            .memory(MemorySize::mib(64));
        starting.spawn(builder.boot_timeout(Duration::from_secs(150)).start());
    }
    let sandboxes = starting.join_all().await;
    let mut stopping = JoinSet::new();
    for sandbox in sandboxes {
        let sandbox = sandbox.unwrap();
        assert_eq!(sandbox.state(), SandboxState::Running);
        stopping.spawn(sandbox.delete());
    }
    for stopped in stopping.join_all().await {
        stopped.unwrap();
    }
    assert!(runtime.list().await.unwrap().is_empty());
    drop(runtime);
    before.assert_same_soon(&host.state_dir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_given_up_at_any_moment_leaves_nothing() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    host.start(&runtime, "warm").await.delete().await.unwrap();
    let before = Census::take(&host.state_dir());
    for moment in [0, 1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1280] {
        let start = runtime.sandbox("given-up").start();
        let limit = Duration::from_millis(moment);
        drop(tokio::time::timeout(limit, start).await);
        before.assert_same_soon(&host.state_dir());
    }
    let sandbox = host.start(&runtime, "given-up").await;
    let container = host.sleeper(&sandbox, "c").await;
    for moment in [0, 1, 3, 9, 27] {
        let exec = container.exec("/bin/sleep").args(["1000"]).spawn();
        drop(tokio::time::timeout(Duration::from_millis(moment), exec).await);
    }
    drop((container, sandbox));
    before.assert_same_soon(&host.state_dir());
}

#[test]
fn a_sandbox_may_outlive_its_tokio_runtime() {
    let Some(host) = Host::new() else { return };
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    // What a first one makes once for all, such as for signals, is no leak.
    drop(runtime());
    let before = Census::take(&host.state_dir());
    let tokio = runtime();
    let sandbox = tokio.block_on(async {
        let runtime = host.runtime();
        host.start(&runtime, "outlives").await
    });
    drop(tokio);
    drop(sandbox);
    before.assert_same_soon(&host.state_dir());
}
