//! Sandboxes in supervisors, for tests of them.

use std::time::Duration;

use kata_sandbox::{MemorySize, OnDrop, Runtime, Sandbox, SandboxBuilder, Supervisor};

use super::Host;

/// A runtime whose supervisors are the shipped program.
pub(crate) fn runtime(host: &Host) -> Runtime {
    let supervisor = Supervisor::program(env!("CARGO_BIN_EXE_kata-supervisor"))
        .log(host.directory.path().join("supervisor.log"));
    let supervisor = with_coverage(supervisor);
    host.builder().supervisor(supervisor).build().unwrap()
}

/// A supervisor has an empty environment; one whose coverage is measured has to
/// know where to write it.
pub(crate) fn with_coverage(supervisor: Supervisor) -> Supervisor {
    const PROFILE: &str = "LLVM_PROFILE_FILE";
    match std::env::var_os(PROFILE) {
        Some(path) => supervisor.env(PROFILE, path),
        None => supervisor,
    }
}

pub(crate) fn builder(runtime: &Runtime, id: &str) -> SandboxBuilder {
    let builder = runtime.sandbox(id).memory(MemorySize::mib(128));
    builder
        .boot_timeout(Duration::from_secs(60))
        .label("who", "test")
        .on_drop(OnDrop::Detach)
}

pub(crate) async fn start(runtime: &Runtime, id: &str) -> Sandbox {
    builder(runtime, id).start().await.unwrap()
}

/// What the journal says of the sandbox.
pub(crate) fn record(host: &Host, id: &str) -> serde_json::Value {
    let path = host.state_dir().join(id).join("state.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Kills the supervisor of the sandbox, and nothing else.
pub(crate) fn kill_supervisor(host: &Host, id: &str) {
    let pid = record(host, id)["owner"]["pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
