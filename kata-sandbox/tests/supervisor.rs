//! Sandboxes in supervisors: they outlive their handles and their programs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Host, sh, text};
use kata_sandbox::{
    ErrorKind, Event, Exit, MemorySize, OnDrop, Runtime, Sandbox, SandboxExit, SandboxState,
    Signal, StdioMode, Supervisor,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn runtime(host: &Host) -> Runtime {
    let supervisor = Supervisor::program(env!("CARGO_BIN_EXE_kata-supervisor"))
        .log(host.directory.path().join("supervisor.log"));
    host.builder().supervisor(supervisor).build().unwrap()
}

async fn start(runtime: &Runtime, id: &str) -> Sandbox {
    let builder = runtime.sandbox(id).memory(MemorySize::mib(128));
    let builder = builder
        .boot_timeout(Duration::from_secs(60))
        .label("who", "test")
        .on_drop(OnDrop::Detach);
    builder.start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detached_sandbox_goes_on_and_is_found_again() {
    let Some(host) = Host::new() else { return };
    let first = runtime(&host);
    let sandbox = start(&first, "detached").await;
    assert_eq!(sandbox.state(), SandboxState::Running);
    let again = first.sandbox("detached").start().await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);

    let log = host.directory.path().join("log");
    let rootfs = host.rootfs("root");
    let script = "echo one; cat /dev/zero | head -c 100000; sleep 1; echo two >&2; exit 7";
    let spec = host
        .spec(&rootfs, script)
        .stdio(StdioMode::Log(log.clone()));
    let container = sandbox.container("logs", spec).await.unwrap();
    container.start().await.unwrap();
    let sleeper = host.sleeper(&sandbox, "sleeper").await;
    assert_eq!(text(&sh(&sleeper, "echo hi").await.stdout), "hi\n");
    drop((container, sleeper));
    assert_eq!(sandbox.detach().unwrap(), "detached");
    drop(first);

    let second = runtime(&host);
    let list = second.list().await.unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].state, SandboxState::Running);
    assert_eq!(list[0].labels["who"], "test");
    let taken = second.sandbox("detached").on_drop(OnDrop::Detach);
    let taken = taken.start().await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists, "{taken:#}");
    let sandbox = second.attach("detached").await.unwrap();
    assert!(!sandbox.timeline().phases().is_empty());
    let container = sandbox.get("logs").unwrap();
    assert_eq!(container.wait().await.unwrap(), Exit::Code(7));
    let written = std::fs::read(&log).unwrap();
    assert_eq!(written.len(), 4 + 100_000 + 4);
    assert!(written.starts_with(b"one\n") && written.ends_with(b"two\n"));
    assert_eq!(container.delete().await.unwrap(), Some(Exit::Code(7)));
    assert_eq!(sandbox.containers().len(), 1);

    let sleeper = sandbox.get("sleeper").unwrap();
    let mut cat = sleeper
        .exec("/bin/cat")
        .stdio(StdioMode::Piped)
        .spawn()
        .await
        .unwrap();
    let mut stdin = cat.take_stdin().unwrap();
    let sent = vec![b'y'; 1 << 20];
    let writing = async {
        stdin.write_all(&sent).await.unwrap();
        stdin.shutdown().await.unwrap();
    };
    let mut read = Vec::new();
    let mut stdout = cat.take_stdout().unwrap();
    let ((), got) = tokio::join!(writing, stdout.read_to_end(&mut read));
    got.unwrap();
    assert!(read == sent, "{} bytes", read.len());
    assert_eq!(cat.wait().await.unwrap(), Exit::Code(0));

    let mut events = sandbox.events();
    sleeper.kill(Signal::KILL).await.unwrap();
    assert_eq!(sleeper.wait().await.unwrap(), Exit::Signal(9));
    sandbox.stop(Duration::ZERO).await.unwrap();
    assert_eq!(sandbox.state(), SandboxState::Stopped);
    assert_eq!(sandbox.wait().await, SandboxExit::Stopped);
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        seen.push(event);
    }
    let exited = Event::ContainerExited {
        sandbox: "detached".into(),
        container: "sleeper".into(),
        exit: Exit::Signal(9),
    };
    assert!(seen.contains(&exited), "{seen:?}");
    assert_eq!(sleeper.state(), kata_sandbox::ContainerState::Stopped);
    sandbox.delete().await.unwrap();
    assert!(second.list().await.unwrap().is_empty());
    let gone = second.attach("detached").await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone:#}");
}
