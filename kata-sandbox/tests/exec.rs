//! Containers and what is executed in them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Host, leftovers::Census, sh, text};
use kata_sandbox::{
    ContainerState, ErrorKind, Exit, MemorySize, Mount, PtySize, Rootfs, Sandbox, Signal, StdioMode,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const GRACE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_run_and_end_as_their_programs_do() {
    let Some(host) = Host::new() else { return };
    let before = Census::take(&host.state_dir());
    let runtime = host.runtime();
    let sandbox = host.start(&runtime, "exec").await;

    output_and_status_come_back(&host, &sandbox).await;
    executed_processes_have_what_they_are_given(&host, &sandbox).await;
    signals_end_what_they_are_sent_to(&host, &sandbox).await;
    a_terminal_is_one(&host, &sandbox).await;
    input_reaches_the_program(&host, &sandbox).await;
    shares_are_the_hosts_files(&host, &sandbox).await;
    limits_hold(&host, &sandbox).await;
    files_travel_both_ways(&host, &sandbox).await;
    what_cannot_run_says_why(&host, &sandbox).await;
    a_log_takes_the_output(&host, &sandbox).await;
    an_overlay_keeps_its_lower_directory(&host, &sandbox).await;
    an_overlay_keeps_changes_in_its_upper_directory(&host, &sandbox).await;

    assert!(
        sandbox.containers().is_empty(),
        "{:?}",
        sandbox.containers()
    );
    sandbox.stop(GRACE).await.unwrap();
    drop((sandbox, runtime));
    before.assert_same_soon(&host.state_dir());
}

async fn output_and_status_come_back(host: &Host, sandbox: &Sandbox) {
    let rootfs = host.rootfs("first");
    let spec = host
        .spec(&rootfs, "echo out; echo err >&2; exit 3")
        .stdio(StdioMode::Piped);
    let container = sandbox.container("first", spec).await.unwrap();
    assert_eq!(container.state(), ContainerState::Created);
    assert_eq!(
        container.init().unwrap_err().kind(),
        ErrorKind::InvalidState
    );
    let again = sandbox
        .container("first", host.spec(&rootfs, "true"))
        .await
        .unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);

    let mut process = container.start().await.unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    process
        .take_stdout()
        .unwrap()
        .read_to_string(&mut out)
        .await
        .unwrap();
    process
        .take_stderr()
        .unwrap()
        .read_to_string(&mut err)
        .await
        .unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));
    assert_eq!(process.wait().await.unwrap(), Exit::Code(3));
    assert_eq!(container.wait().await.unwrap(), Exit::Code(3));
    assert!(process.pid().is_some());
    assert_eq!(
        container.start().await.unwrap_err().kind(),
        ErrorKind::InvalidState
    );
    assert_eq!(
        container.clone().delete().await.unwrap(),
        Some(Exit::Code(3))
    );
    assert_eq!(container.delete().await.unwrap(), Some(Exit::Code(3)));
}

async fn executed_processes_have_what_they_are_given(host: &Host, sandbox: &Sandbox) {
    let container = host.sleeper(sandbox, "given").await;
    let exec = container
        .exec("/bin/sh")
        .args(["-c", "echo $A $(pwd) $(id -u):$(id -g); exit 7"]);
    let output = exec
        .env("A", "b")
        .cwd("/data")
        .user("1000:50")
        .output()
        .await
        .unwrap();
    assert_eq!(text(&output.stdout), "b /data 1000:50\n");
    assert_eq!((output.exit, output.truncated), (Exit::Code(7), false));
    let named = container
        .exec("/bin/id")
        .args(["-u"])
        .user("web")
        .output()
        .await
        .unwrap();
    assert_eq!(text(&named.stdout), "1000\n", "{named:?}");
    let much = container
        .exec("/bin/sh")
        .args(["-c", "yes | head -c 100000"]);
    let much = much.output_limit(10).output().await.unwrap();
    assert_eq!((much.stdout.len(), much.truncated), (10, true));
    let slow = container
        .exec("/bin/sleep")
        .args(["1000"])
        .timeout(Duration::from_millis(500));
    assert_eq!(slow.output().await.unwrap_err().kind(), ErrorKind::Timeout);
    container.delete().await.unwrap();
}

async fn signals_end_what_they_are_sent_to(host: &Host, sandbox: &Sandbox) {
    let container = host.sleeper(sandbox, "signal").await;
    let other = container
        .exec("/bin/sleep")
        .args(["1000"])
        .spawn()
        .await
        .unwrap();
    other.kill(Signal::TERM).await.unwrap();
    assert_eq!(other.wait().await.unwrap(), Exit::Signal(15));
    assert_eq!(
        other.kill(Signal(99)).await.unwrap_err().kind(),
        ErrorKind::InvalidConfig
    );
    container.pause().await.unwrap();
    assert_eq!(container.state(), ContainerState::Paused);
    container.resume().await.unwrap();
    let bystander = container
        .exec("/bin/sleep")
        .args(["1000"])
        .spawn()
        .await
        .unwrap();
    container.kill_all(Signal::KILL).await.unwrap();
    assert_eq!(container.wait().await.unwrap(), Exit::Signal(9));
    assert_eq!(bystander.wait().await.unwrap(), Exit::Signal(9));
    container.delete().await.unwrap();
}

async fn a_terminal_is_one(host: &Host, sandbox: &Sandbox) {
    let container = host.sleeper(sandbox, "pty").await;
    let size = PtySize { rows: 30, cols: 90 };
    let script = "stty size; read line; stty size; exit 4";
    let exec = container
        .exec("/bin/sh")
        .args(["-c", script])
        .stdio(StdioMode::Pty(size));
    let mut process = exec.spawn().await.unwrap();
    let mut input = process.take_stdin().unwrap();
    let mut output = process.take_stdout().unwrap();
    assert!(process.take_stderr().is_none());
    let mut seen = Vec::new();
    while !text(&seen).contains("30 90") {
        assert_ne!(
            output.read_buf(&mut seen).await.unwrap(),
            0,
            "{}",
            text(&seen)
        );
    }
    process
        .resize(PtySize {
            rows: 40,
            cols: 100,
        })
        .await
        .unwrap();
    input.write_all(b"go\n").await.unwrap();
    input.flush().await.unwrap();
    output.read_to_end(&mut seen).await.unwrap();
    assert!(text(&seen).contains("40 100"), "{}", text(&seen));
    assert_eq!(process.wait().await.unwrap(), Exit::Code(4));
    container.delete().await.unwrap();
}

async fn input_reaches_the_program(host: &Host, sandbox: &Sandbox) {
    let container = host.sleeper(sandbox, "input").await;
    let mut process = container
        .exec("/bin/md5sum")
        .stdio(StdioMode::Piped)
        .spawn()
        .await
        .unwrap();
    let mut input = process.take_stdin().unwrap();
    input.write_all(&vec![b'x'; 3_000_000]).await.unwrap();
    input.shutdown().await.unwrap();
    let mut sum = String::new();
    process
        .take_stdout()
        .unwrap()
        .read_to_string(&mut sum)
        .await
        .unwrap();
    let here = std::process::Command::new("sh")
        .args(["-c", "head -c 3000000 /dev/zero | tr '\\0' x | md5sum"])
        .output()
        .unwrap();
    assert_eq!(sum, text(&here.stdout));
    assert_eq!(process.wait().await.unwrap(), Exit::Code(0));
    container.delete().await.unwrap();
}

async fn shares_are_the_hosts_files(host: &Host, sandbox: &Sandbox) {
    let (rootfs, data) = (host.rootfs("shares"), host.directory.path().join("shared"));
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("hello"), "from the host").unwrap();
    let script =
        "cat /ro/hello; echo guest > /rw/reply; echo x > /ro/no; echo $?; df /tmp | tail -1";
    let spec = host
        .spec(&rootfs, script)
        .mount(Mount::share(&data, "/ro").read_only())
        .mount(Mount::share(&data, "/rw"))
        .mount(Mount::tmpfs("/tmp", MemorySize::mib(1)))
        .stdio(StdioMode::Piped);
    let container = sandbox.container("shares", spec).await.unwrap();
    let mut process = container.start().await.unwrap();
    let mut output = String::new();
    process
        .take_stdout()
        .unwrap()
        .read_to_string(&mut output)
        .await
        .unwrap();
    assert!(output.starts_with("from the host1\n"), "{output}");
    assert!(output.contains("1024"), "{output}");
    assert_eq!(
        std::fs::read_to_string(data.join("reply")).unwrap(),
        "guest\n"
    );
    assert!(!data.join("no").exists());
    container.delete().await.unwrap();
}

async fn limits_hold(host: &Host, sandbox: &Sandbox) {
    let rootfs = host.rootfs("limits");
    let script = "x=0123456789abcdef; while true; do x=$x$x; done";
    let spec = host
        .spec(&rootfs, script)
        .memory(MemorySize::mib(16))
        .pids(8);
    let container = sandbox.container("limits", spec).await.unwrap();
    let process = container.start().await.unwrap();
    assert_eq!(process.wait().await.unwrap(), Exit::Oom);
    container.delete().await.unwrap();
    let container = host.sleeper(sandbox, "update").await;
    let mut resources = kata_sandbox::oci::LinuxResources::default();
    let mut pids = kata_sandbox::oci::LinuxPids::default();
    pids.set_limit(5);
    resources.set_pids(Some(pids));
    container.update(&resources).await.unwrap();
    let limit = sh(&container, "cat /sys/fs/cgroup/pids.max").await;
    assert_eq!(text(&limit.stdout), "5\n", "{limit:?}");
    let stats = container.stats().await.unwrap();
    assert!(stats.pids >= 1 && stats.memory.as_bytes() > 0, "{stats:?}");
    assert!(
        sandbox
            .stats()
            .await
            .unwrap()
            .containers
            .iter()
            .any(|(id, _)| id == "update")
    );
    container.delete().await.unwrap();
}

async fn files_travel_both_ways(host: &Host, sandbox: &Sandbox) {
    let container = host.sleeper(sandbox, "copy").await;
    let here = host.directory.path().join("copied");
    std::fs::create_dir_all(here.join("tree/deep")).unwrap();
    std::fs::write(here.join("tree/deep/file"), vec![b'z'; 300_000]).unwrap();
    let sent = container.copy_in(here.join("tree"), "/data").await.unwrap();
    assert!(sent >= 300_000, "{sent}");
    let size = sh(
        &container,
        "wc -c < /data/tree/deep/file; echo more > /data/tree/new",
    )
    .await;
    assert_eq!(text(&size.stdout).trim(), "300000", "{size:?}");
    let back = host.directory.path().join("back");
    std::fs::create_dir(&back).unwrap();
    container.copy_out("/data/tree", &back).await.unwrap();
    assert_eq!(std::fs::read(back.join("tree/new")).unwrap(), b"more\n");
    assert_eq!(
        std::fs::read(back.join("tree/deep/file")).unwrap().len(),
        300_000
    );
    let twice = container.copy_out("/data/tree", &back).await.unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
    let nowhere = container.copy_out("/nowhere", &back).await.unwrap_err();
    assert!(nowhere.to_string().contains("/nowhere"), "{nowhere}");
    let no_directory = container
        .copy_in(here.join("tree"), "/nowhere")
        .await
        .unwrap_err();
    assert!(
        no_directory.to_string().contains("/nowhere"),
        "{no_directory}"
    );
    assert_eq!(std::fs::read_dir(&back).unwrap().count(), 1);
    container.delete().await.unwrap();
}

async fn what_cannot_run_says_why(host: &Host, sandbox: &Sandbox) {
    let rootfs = host.rootfs("bad");
    let spec = host.spec(&rootfs, "").command(["/bin/nope"]);
    let made = sandbox.container("bad", spec).await;
    let error = match made {
        Ok(container) => {
            let error = container.start().await.unwrap_err();
            container.delete().await.unwrap();
            error
        }
        Err(error) => error,
    };
    assert!(format!("{error:#}").contains("/bin/nope"), "{error:#}");
    let container = host.sleeper(sandbox, "bad").await;
    let error = container.exec("/bin/nope").spawn().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:#}");
    assert!(format!("{error:#}").contains("/bin/nope"), "{error:#}");
    let error = container
        .exec("/bin/true")
        .user("nobody-here")
        .spawn()
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains("nobody-here"), "{error:#}");
    container.delete().await.unwrap();
}

async fn a_log_takes_the_output(host: &Host, sandbox: &Sandbox) {
    let (rootfs, log) = (host.rootfs("log"), host.directory.path().join("log.txt"));
    let spec = host
        .spec(&rootfs, "echo one; echo two >&2")
        .stdio(StdioMode::Log(log.clone()));
    let container = sandbox.container("log", spec).await.unwrap();
    let process = container.start().await.unwrap();
    assert_eq!(process.wait().await.unwrap(), Exit::Code(0));
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("one\n") && log.contains("two\n"), "{log}");
    container.delete().await.unwrap();
}

async fn an_overlay_keeps_its_lower_directory(host: &Host, sandbox: &Sandbox) {
    let lower = host.rootfs("lower");
    let rootfs = Rootfs::Overlay {
        lower: vec![lower.clone()],
        upper: None,
    };
    let spec = kata_sandbox::ContainerSpec::new(rootfs)
        .command(["/bin/sh", "-c", "echo x > /data/new && cat /data/new"])
        .stdio(StdioMode::Piped);
    let container = sandbox.container("overlay", spec).await.unwrap();
    let mut process = container.start().await.unwrap();
    let mut output = String::new();
    process
        .take_stdout()
        .unwrap()
        .read_to_string(&mut output)
        .await
        .unwrap();
    assert_eq!(output, "x\n");
    assert!(!lower.join("data/new").exists());
    container.delete().await.unwrap();
}

async fn an_overlay_keeps_changes_in_its_upper_directory(host: &Host, sandbox: &Sandbox) {
    let (lower, top) = (host.rootfs("below"), host.directory.path().join("top"));
    std::fs::create_dir_all(top.join("data")).unwrap();
    std::fs::write(top.join("data/which"), "the first is on top").unwrap();
    std::fs::write(lower.join("data/which"), "the last is on top").unwrap();
    std::fs::write(lower.join("data/gone"), "to be removed").unwrap();
    let upper = host.directory.path().join("upper");
    let script = "cat /data/which && echo x > /data/new && rm /data/gone && \
                  mv /data/which /data/moved && ls /data";
    let spec = || {
        let rootfs = Rootfs::Overlay {
            lower: vec![top.clone(), lower.clone()],
            upper: Some(upper.clone()),
        };
        kata_sandbox::ContainerSpec::new(rootfs).stdio(StdioMode::Piped)
    };
    let first = spec().command(["/bin/sh", "-c", script]);
    assert_eq!(
        said(sandbox, first).await,
        "the first is on topmoved\nnew\n"
    );
    let again = spec().command(["/bin/cat", "/data/moved"]);
    assert_eq!(said(sandbox, again).await, "the first is on top");
    assert_eq!(
        std::fs::read_to_string(upper.join("fs/data/new")).unwrap(),
        "x\n"
    );
    assert!(top.join("data/which").exists() && lower.join("data/gone").exists());
}

/// What a container of its own writes.
async fn said(sandbox: &Sandbox, spec: kata_sandbox::ContainerSpec) -> String {
    let container = sandbox.container("says", spec).await.unwrap();
    let mut process = container.start().await.unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    let (mut stdout, mut stderr) = (
        process.take_stdout().unwrap(),
        process.take_stderr().unwrap(),
    );
    let (read, read_too) = tokio::join!(
        stdout.read_to_string(&mut out),
        stderr.read_to_string(&mut err)
    );
    read.unwrap();
    read_too.unwrap();
    assert_eq!(process.wait().await.unwrap(), Exit::Code(0), "{out}{err}");
    container.delete().await.unwrap();
    out
}
