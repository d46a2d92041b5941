//! Several containers in one sandbox, and streams into it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Host, leftovers::Census, sh, text};
use kata_sandbox::{
    ErrorKind, Exit, Features, Process, SandboxExit, SandboxState, Signal, StdioMode,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_of_a_sandbox_share_its_loopback_and_nothing_else() {
    let Some(host) = Host::new() else { return };
    let before = Census::take(&host.state_dir());
    let runtime = host.runtime();
    let sandbox = host.start(&runtime, "pod").await;
    let server = host.sleeper(&sandbox, "server").await;
    let client = host.sleeper(&sandbox, "client").await;

    let script = "while true; do echo served | nc -l -p 8080; done";
    let listening = server
        .exec("/bin/sh")
        .args(["-c", script])
        .spawn()
        .await
        .unwrap();
    let fetch =
        "for i in 1 2 3 4 5 6 7 8 9; do nc 127.0.0.1 8080 && exit 0; sleep 0.2; done; exit 1";
    let fetched = sh(&client, fetch).await;
    assert_eq!(
        (text(&fetched.stdout).as_str(), fetched.exit),
        ("served\n", Exit::Code(0))
    );
    let processes = sh(&client, "ps | grep -c '[n]c -l'").await;
    assert_eq!(text(&processes.stdout), "0\n");

    let echo = "while true; do nc -l -p 8081 -e cat; done";
    let echoing = server
        .exec("/bin/sh")
        .args(["-c", echo])
        .spawn()
        .await
        .unwrap();
    let mut stream = dial(&sandbox, 8081).await;
    stream.write_all(b"over tcp").await.unwrap();
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"over tcp");
    drop(stream);
    let refused = sandbox.dial_tcp(9).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound, "{refused:#}");
    let refused = sandbox.dial_vsock(9999).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound, "{refused:#}");

    let Features { pause, .. } = sandbox.features();
    if pause {
        sandbox.pause().await.unwrap();
        assert_eq!(sandbox.state(), SandboxState::Paused);
        let refused = sandbox.stats().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidState);
        sandbox.resume().await.unwrap();
        assert!(sh(&client, "true").await.exit.success());
    }
    let asked = obedient(&host, &sandbox, "asked").await;
    asked.kill(Signal::TERM).await.unwrap();
    assert_eq!(asked.wait().await.unwrap(), Exit::Code(5));
    let graceful = obedient(&host, &sandbox, "graceful").await;
    sandbox.stop(Duration::from_secs(3)).await.unwrap();
    assert_eq!(graceful.wait().await.unwrap(), Exit::Code(5));
    assert_ne!(server.wait().await.unwrap(), Exit::Lost);
    drop((
        asked, graceful, server, client, listening, echoing, sandbox, runtime,
    ));
    before.assert_same_soon(&host.state_dir());
}

/// A process that ends when it is asked to, and is ready to be.
async fn obedient(host: &Host, sandbox: &kata_sandbox::Sandbox, id: &str) -> Process {
    let script = "trap 'exit 5' TERM; echo ready; while true; do sleep 0.1; done";
    let spec = host.spec(&host.rootfs(id), script).stdio(StdioMode::Piped);
    let container = sandbox.container(id, spec).await.unwrap();
    let mut process = container.start().await.unwrap();
    let mut ready = [0; 6];
    process
        .take_stdout()
        .unwrap()
        .read_exact(&mut ready)
        .await
        .unwrap();
    process
}

/// A server that takes one connection at a time may be between two.
async fn dial(sandbox: &kata_sandbox::Sandbox, port: u16) -> kata_sandbox::GuestStream {
    for _ in 0..50 {
        match sandbox.dial_tcp(port).await {
            Ok(stream) => return stream,
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error:#}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nothing listens on {port}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stalls_holds_up_its_own_stream_alone() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let sandbox = host.start(&runtime, "stall").await;
    let container = host.sleeper(&sandbox, "c").await;
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            * 4096
    };
    let before = resident();
    let exec = container
        .exec("/bin/cat")
        .args(["/dev/zero"])
        .stdio(StdioMode::Piped);
    let mut endless = exec.spawn().await.unwrap();
    let mut output = endless.take_stdout().unwrap();
    let mut first = [1; 1024];
    output.read_exact(&mut first).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(sh(&container, "true").await.exit.success());
    let grown = resident().saturating_sub(before);
    assert!(grown < 4 << 20, "a stalled stream costs {grown} bytes");
    endless.kill(Signal::KILL).await.unwrap();
    assert_eq!(endless.wait().await.unwrap(), Exit::Signal(9));
    let much = container
        .exec("/bin/sh")
        .args(["-c", "head -c 20000000 /dev/zero"]);
    let mut much = much.stdio(StdioMode::Piped).spawn().await.unwrap();
    let mut all = much.take_stdout().unwrap();
    let count = tokio::io::copy(&mut all, &mut tokio::io::sink())
        .await
        .unwrap();
    assert_eq!(
        (count, much.wait().await.unwrap()),
        (20_000_000, Exit::Code(0))
    );
    sandbox.delete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_whose_monitor_dies_is_lost_and_leaves_nothing() {
    let Some(host) = Host::new() else { return };
    let before = Census::take(&host.state_dir());
    let runtime = host.runtime();
    let sandbox = host.start(&runtime, "victim").await;
    if !sandbox.features().process {
        return eprintln!("skipped: this machine is no process that could be killed");
    }
    let container = host.sleeper(&sandbox, "c").await;
    kill_monitor();
    let exit = sandbox.wait().await;
    assert!(
        matches!(exit, SandboxExit::MonitorCrashed { .. }),
        "{exit:?}"
    );
    assert_eq!(sandbox.state(), SandboxState::Lost);
    assert_eq!(container.wait().await.unwrap(), Exit::Lost);
    let error = container.exec("/bin/true").spawn().await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::GuestLost | ErrorKind::InvalidState),
        "{error:#}"
    );
    sandbox.stop(Duration::ZERO).await.unwrap();
    drop((container, sandbox, runtime));
    before.assert_same_soon(&host.state_dir());
}

/// Kills this process's QEMU; there is one.
fn kill_monitor() {
    let me = std::process::id().to_string();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((name, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        let parent = rest.split_whitespace().nth(1);
        if parent == Some(me.as_str()) && name.contains("(qemu") {
            let pid = entry.file_name().to_string_lossy().parse().unwrap();
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            return;
        }
    }
    panic!("this process has no QEMU");
}
