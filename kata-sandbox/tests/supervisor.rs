//! Sandboxes in supervisors: they outlive their handles and their programs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::detached::{runtime, start};
use common::{Host, sh, text};
use kata_sandbox::{
    ContainerState, ErrorKind, Event, Exit, MemorySize, OnDrop, PtySize, SandboxExit, SandboxState,
    Signal, StdioMode,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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
    assert_eq!(sleeper.state(), ContainerState::Stopped);
    sandbox.delete().await.unwrap();
    assert!(second.list().await.unwrap().is_empty());
    let gone = second.attach("detached").await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_works_through_a_supervisor_as_without_one() {
    let Some(host) = Host::new() else { return };
    let runtime = runtime(&host);
    let sandbox = start(&runtime, "all").await;
    let container = host.sleeper(&sandbox, "c").await;

    let stats = sandbox.stats().await.unwrap();
    assert!(stats.guest.unwrap().total > MemorySize::mib(32));
    assert_eq!(stats.containers[0].0, "c");
    assert!(container.stats().await.unwrap().pids > 0);
    container.pause().await.unwrap();
    assert_eq!(container.state(), ContainerState::Paused);
    container.resume().await.unwrap();
    sandbox.pause().await.unwrap();
    assert_eq!(sandbox.state(), SandboxState::Paused);
    let paused = container.exec("/bin/true").spawn().await.unwrap_err();
    assert_eq!(paused.kind(), ErrorKind::InvalidState);
    sandbox.resume().await.unwrap();
    let mut resources = kata_sandbox::oci::LinuxResources::default();
    let mut pids = kata_sandbox::oci::LinuxPids::default();
    pids.set_limit(77);
    resources.set_pids(Some(pids));
    container.update(&resources).await.unwrap();

    let file = host.directory.path().join("file");
    std::fs::write(&file, "content").unwrap();
    container.copy_in(&file, "/data").await.unwrap();
    let copied = sh(&container, "cat /data/file; echo more > /data/new").await;
    assert_eq!(text(&copied.stdout), "content");
    let out = host.directory.path().join("out");
    std::fs::create_dir(&out).unwrap();
    container.copy_out("/data/new", &out).await.unwrap();
    assert_eq!(std::fs::read(out.join("new")).unwrap(), b"more\n");

    let listener = container
        .exec("/bin/nc")
        .args(["-l", "-p", "4000", "-e", "/bin/cat"])
        .stdio(StdioMode::Piped)
        .spawn()
        .await
        .unwrap();
    sh(
        &container,
        "until netstat -ltn | grep -q :4000; do sleep 0.1; done",
    )
    .await;
    let mut stream = sandbox.dial_tcp(4000).await.unwrap();
    stream.write_all(b"echo").await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"echo");
    drop(stream);
    let refused = sandbox.dial_tcp(4001).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    let refused = sandbox.dial_vsock(4001).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    listener.wait().await.unwrap();

    let mut shell = container
        .exec("/bin/sh")
        .stdio(StdioMode::Pty(PtySize { rows: 24, cols: 80 }))
        .spawn()
        .await
        .unwrap();
    shell
        .resize(PtySize {
            rows: 50,
            cols: 132,
        })
        .await
        .unwrap();
    let mut stdin = shell.take_stdin().unwrap();
    stdin.write_all(b"stty size; exit 3\n").await.unwrap();
    let mut screen = Vec::new();
    let mut stdout = shell.take_stdout().unwrap();
    drop(stdout.read_to_end(&mut screen).await); // a terminal ends as it likes
    assert!(text(&screen).contains("50 132"), "{}", text(&screen));
    assert_eq!(shell.wait().await.unwrap(), Exit::Code(3));
    let found = container.process(shell.control().exec_id()).await.unwrap();
    assert_eq!(found.wait().await.unwrap(), Exit::Code(3));

    let missing = container.exec("/no/such").spawn().await.unwrap_err();
    let same = {
        let local = host.runtime();
        let sandbox = host.start(&local, "local").await;
        let container = host.sleeper(&sandbox, "c").await;
        container.exec("/no/such").spawn().await.unwrap_err()
    };
    assert_eq!(missing.kind(), same.kind());
    let here = format!("{same:#}").replace("local/", "all/");
    assert_eq!(format!("{missing:#}"), here);
    assert!(sandbox.console_tail().await.is_ok());
    sandbox.delete().await.unwrap();
}
