//! A sandbox from its start to its end.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Host, leftovers::Census};
use kata_sandbox::{ErrorKind, Event, SandboxExit, SandboxState};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_boots_runs_and_leaves_nothing() {
    let Some(host) = Host::new() else { return };
    let before = Census::take(&host.state_dir());
    let runtime = host.runtime();
    let mut events = runtime.events();
    let sandbox = host.start(&runtime, "life").await;
    println!("{}", sandbox.timeline());

    assert_eq!(sandbox.state(), SandboxState::Running);
    let sandbox_state = |state| {
        Some(Event::SandboxState {
            sandbox: "life".into(),
            state,
        })
    };
    assert_eq!(events.next().await, sandbox_state(SandboxState::Running));
    let again = runtime.sandbox("life").start().await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    assert_eq!(runtime.list().await.unwrap().len(), 1);
    assert_eq!(runtime.get("life").unwrap().id(), "life");
    let stats = sandbox.stats().await.unwrap();
    assert!(stats.guest.unwrap().total.as_mib() > 32, "{stats:?}");

    sandbox.stop(Duration::from_secs(1)).await.unwrap();
    sandbox.stop(Duration::from_secs(1)).await.unwrap();
    assert_eq!(sandbox.state(), SandboxState::Stopped);
    assert_eq!(sandbox.wait().await, SandboxExit::Stopped);
    assert_eq!(events.next().await, sandbox_state(SandboxState::Stopping));
    assert_eq!(events.next().await, sandbox_state(SandboxState::Stopped));
    let late = sandbox.stats().await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::InvalidState);
    sandbox.delete().await.unwrap();
    assert!(runtime.list().await.unwrap().is_empty());
    drop((runtime, events));
    before.assert_same_soon(&host.state_dir());
}
