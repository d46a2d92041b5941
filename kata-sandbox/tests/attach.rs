//! Several programs on one sandbox, and supervisors that are gone or strange.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::detached::{self, kill_supervisor, record, runtime, start};
use common::mortal::{Gate, Orders, processes_of};
use common::{Host, sh, text};
use kata_sandbox::{
    ContainerState, ErrorKind, Event, Exit, OnDrop, Recovered, Runtime, SandboxExit, SandboxState,
    Signal, StdioMode,
};
use tokio::io::AsyncReadExt as _;

/// Not a test of its own: the supervisor of `embedder_main`.
#[test]
#[ignore = "is started by the other tests"]
fn supervisor_main() {
    let Some(orders) = Orders::own() else { return };
    drop(kata_sandbox::supervisor::serve(|builder| {
        orders.configure(builder)
    }));
}

/// Not a test of its own: a supervisor that waits before it says that its
/// sandbox is ready.
#[test]
#[ignore = "is started by the other tests"]
fn slow_supervisor_main() {
    let Some(orders) = Orders::own() else { return };
    let directory = orders.traces.clone();
    drop(kata_sandbox::supervisor::serve(|builder| {
        builder.on_journal_step(move |step| {
            if step == "socket bound" {
                Gate::at(&directory, "ready").arrive();
                Gate::at(&directory, "go").meet();
            }
        })
    }));
}

/// Not a test of its own: a program that starts a sandbox, and is killed.
#[test]
#[ignore = "is started by the other tests"]
fn embedder_main() {
    let Some(orders) = Orders::own() else { return };
    let directory = orders.traces.parent().unwrap().to_owned();
    let tokio = tokio::runtime::Runtime::new().unwrap();
    tokio.block_on(async {
        let supervisor = orders.supervisor("supervisor_main");
        let runtime = Runtime::builder()
            .state_dir(directory.join("s"))
            .guest_image(std::env::var_os("KATA_GUEST_IMAGE").unwrap())
            .supervisor(supervisor)
            .build()
            .unwrap();
        let sandbox = start(&runtime, "orphan").await;
        let rootfs = kata_sandbox::Rootfs::Dir(directory.join("root"));
        let script = "for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 0.2; done; exit 9";
        let spec = kata_sandbox::ContainerSpec::new(rootfs).command(["/bin/sh", "-c", script]);
        let spec = spec.stdio(StdioMode::Log(directory.join("log")));
        let container = sandbox.container("c", spec).await.unwrap();
        container.start().await.unwrap();
        println!("started");
        std::future::pending::<()>().await;
    });
}

/// Not a test of its own: another user, who says what he is told.
#[test]
#[ignore = "is started by the other tests"]
fn stranger_main() {
    let Some(orders) = Orders::own() else { return };
    let answer = greet(&orders.traces, r#"{"protocol":1}"#);
    println!("answer {answer}");
}

/// Says a greeting on the socket, and answers what comes.
fn greet(socket: &Path, words: &str) -> String {
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) => return error.to_string(),
    };
    let length = u32::try_from(words.len()).unwrap();
    stream.write_all(&length.to_le_bytes()).unwrap();
    stream.write_all(&[0; 4]).unwrap();
    stream.write_all(words.as_bytes()).unwrap();
    let mut header = [0; 8];
    stream.read_exact(&mut header).unwrap();
    let length = u32::from_le_bytes(header[..4].try_into().unwrap());
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_log_outlive_the_program_that_was_killed() {
    let Some(host) = Host::new() else { return };
    let traces = host.directory.path().join("net");
    host.rootfs("root");
    let orders = Orders { traces, die_at: 0 };
    let mut embedder = Command::new("/proc/self/exe")
        .args(orders.arguments("embedder_main"))
        .env("KATA_GUEST_IMAGE", host.image())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    let mut output = embedder.stdout.take().unwrap();
    while !text(&said).contains("started") {
        let mut byte = [0];
        output.read_exact(&mut byte).unwrap();
        said.push(byte[0]);
    }
    embedder.kill().unwrap();
    embedder.wait().unwrap();

    let runtime = runtime(&host);
    let recovered = runtime.recover().await.unwrap();
    assert!(matches!(&recovered[..], [Recovered::Live(it)] if it.id() == "orphan"));
    let sandbox = runtime.attach("orphan").await.unwrap();
    let container = sandbox.get("c").unwrap();
    assert_eq!(container.wait().await.unwrap(), Exit::Code(9));
    let log = std::fs::read_to_string(host.directory.path().join("log")).unwrap();
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines.len(), 8, "{log}");
    assert_eq!((lines[0], lines[7]), ("line 1", "line 8"));
    drop((container, recovered));
    sandbox.delete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_programs_share_a_sandbox_and_its_streams_go_to_who_takes_them() {
    let Some(host) = Host::new() else { return };
    let (one, two) = (runtime(&host), runtime(&host));
    let (first, second) = tokio::join!(
        detached::builder(&one, "shared").start(),
        detached::builder(&two, "shared").start()
    );
    // Started by both at once: one has it, the other attaches.
    let (won, lost) = match (first, second) {
        (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
        both => panic!("{both:?}"),
    };
    assert_eq!(lost.kind(), ErrorKind::AlreadyExists, "{lost:#}");
    let (mine, theirs) = (won, {
        let third = runtime(&host);
        third.attach("shared").await.unwrap()
    });
    let mut events = theirs.events();
    let rootfs = host.rootfs("root");
    let spec = host.spec(&rootfs, "read line; echo got $line; exit 4");
    let container = mine
        .container("c", spec.stdio(StdioMode::Piped))
        .await
        .unwrap();
    let created = Event::ContainerState {
        sandbox: "shared".into(),
        container: "c".into(),
        state: ContainerState::Created,
    };
    assert_eq!(events.next().await, Some(created));

    // One holds the streams and waits, the other starts.
    let mut held = container.attach().await.unwrap();
    let again = container.attach().await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::InvalidState);
    let waiting = tokio::spawn({
        let container = container.clone();
        async move { container.wait().await }
    });
    let other = theirs.get("c").unwrap();
    let mut without = other.start().await.unwrap();
    assert!(without.take_stdin().is_none() && without.take_stdout().is_none());
    let mut stdin = held.take_stdin().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, b"it\n")
        .await
        .unwrap();
    let mut read = String::new();
    let mut stdout = held.take_stdout().unwrap();
    stdout.read_to_string(&mut read).await.unwrap();
    assert_eq!(read, "got it\n");
    assert_eq!(waiting.await.unwrap().unwrap(), Exit::Code(4));
    assert_eq!(other.wait().await.unwrap(), Exit::Code(4));
    let late = other.attach().await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::InvalidState);

    // One deletes, the other no longer has it.
    assert_eq!(container.delete().await.unwrap(), Some(Exit::Code(4)));
    while events.next().await
        != Some(Event::ContainerDeleted {
            sandbox: "shared".into(),
            container: "c".into(),
        })
    {}
    assert!(theirs.containers().is_empty());
    assert_eq!(other.delete().await.unwrap(), Some(Exit::Code(4)));
    mine.delete().await.unwrap();
    assert_eq!(theirs.wait().await, SandboxExit::Stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supervisor_that_is_killed_takes_its_machine_along_and_is_told() {
    let Some(host) = Host::new() else { return };
    let runtime = runtime(&host);
    let sandbox = start(&runtime, "killed").await;
    let container = host.sleeper(&sandbox, "c").await;
    let process = container.exec("/bin/sleep").args(["1000"]);
    let process = process.spawn().await.unwrap();
    let mut events = sandbox.events();
    kill_supervisor(&host, "killed");
    let exit = sandbox.wait().await;
    assert!(matches!(exit, SandboxExit::SupervisorLost { .. }), "{exit}");
    assert_eq!(container.wait().await.unwrap(), Exit::Lost);
    assert_eq!(process.wait().await.unwrap(), Exit::Lost);
    let mut last = None;
    while let Some(event) = events.next().await {
        last = Some(event);
    }
    let lost = Event::SandboxState {
        sandbox: "killed".into(),
        state: SandboxState::Lost,
    };
    assert_eq!(last, Some(lost));
    let late = sandbox.stats().await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::GuestLost);
    assert!(late.remedy().is_some(), "{late}");
    drop((container, process, sandbox));

    let list = runtime.list().await.unwrap();
    assert_eq!(list[0].state, SandboxState::Lost);
    let dead = runtime.attach("killed").await.unwrap_err();
    assert_eq!(dead.kind(), ErrorKind::GuestLost, "{dead:#}");
    let recovered = runtime.recover().await.unwrap();
    let gone =
        matches!(&recovered[..], [Recovered::Gone { id, cleaned: true, .. }] if id == "killed");
    assert!(gone, "{recovered:?}");
    assert!(runtime.list().await.unwrap().is_empty());
    assert_eq!(processes_of(&host.state_dir()).len(), 0);
    // And the next of that id starts, with or without a recovery.
    let sandbox = start(&runtime, "killed").await;
    kill_supervisor(&host, "killed");
    sandbox.wait().await;
    drop(sandbox);
    let sandbox = start(&runtime, "killed").await;
    sandbox.delete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_other_versions_are_refused() {
    let Some(host) = Host::new() else { return };
    let runtime = runtime(&host);
    let sandbox = start(&runtime, "private").await;
    let directory = host.state_dir().join("private");
    let socket = directory.join("control");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&socket)), (0o700, 0o600));

    let answer = greet(&socket, r#"{"protocol":2,"new":{}}"#);
    assert!(answer.contains(r#""refused""#), "{answer}");
    assert!(
        answer.contains("version 2 of the protocol, and the supervisor 1"),
        "{answer}"
    );
    assert!(greet(&socket, r#"{"protocol":0}"#).contains("refused"));
    assert!(greet(&socket, "nonsense").contains("makes no sense"));
    assert!(greet(&socket, r#"{"protocol":1}"#).contains("welcome"));

    if rustix::process::geteuid().is_root() {
        // Even if the doors stood open: the kernel says who it is.
        for path in [host.directory.path(), &host.state_dir(), &directory] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
        let orders = Orders {
            traces: socket,
            die_at: 0,
        };
        let output = Command::new("/proc/self/exe")
            .args(orders.arguments("stranger_main"))
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        let said = text(&output.stdout);
        assert!(said.contains("another user's"), "{said}");
    } else {
        eprintln!("skipped: only root can be another user");
    }
    assert_eq!(sandbox.state(), SandboxState::Running);
    sandbox.delete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_up_half_way_leaves_nothing() {
    let Some(host) = Host::new() else { return };
    let runtime = runtime(&host);
    for moment in [0, 1, 5, 20, 60, 150, 400, 900] {
        let start = detached::builder(&runtime, "given-up").start();
        let limit = Duration::from_millis(moment);
        if let Ok(sandbox) = tokio::time::timeout(limit, start).await {
            sandbox.unwrap().delete().await.unwrap();
        }
        nothing_left(&host).await;
    }
    let sandbox = start(&runtime, "kept").await;
    let container = host.sleeper(&sandbox, "sleeper").await;
    let rootfs = host.rootfs("root");
    for moment in [0, 1, 3, 9, 27, 81] {
        let limit = Duration::from_millis(moment);
        let exec = container.exec("/bin/sleep").args(["1000"]).spawn();
        if let Ok(process) = tokio::time::timeout(limit, exec).await {
            process.unwrap().kill(Signal::KILL).await.unwrap();
        }
        let spec = host.spec(&rootfs, "exec sleep 1000");
        let create = sandbox.container("given-up", spec);
        if let Ok(Ok(container)) = tokio::time::timeout(limit, create).await {
            container.delete().await.unwrap();
        }
    }
    // What was begun is undone soon, and what runs is untouched.
    let deadline = Instant::now() + Duration::from_secs(30);
    let idle = || async {
        let ids: Vec<_> = sandbox.containers().into_iter().map(|it| it.id).collect();
        ids == ["sleeper"] && container.stats().await.unwrap().pids == 1
    };
    while !idle().await {
        assert!(Instant::now() < deadline, "{:?}", sandbox.containers());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(text(&sh(&container, "echo well").await.stdout), "well\n");
    drop((container, sandbox));
    let sandbox = runtime.attach("kept").await.unwrap();
    assert!(record(&host, "kept")["monitor"]["pid"].is_u64());
    sandbox.delete().await.unwrap();
    nothing_left(&host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_given_up_when_it_is_ready_leaves_nothing() {
    let Some(host) = Host::new() else { return };
    let traces = host.directory.path().join("gates");
    std::fs::create_dir(&traces).unwrap();
    let ready = Gate::at(&traces, "ready").make();
    let go = Gate::at(&traces, "go").make();
    let orders = Orders { traces, die_at: 0 };
    let supervisor = orders.supervisor("slow_supervisor_main");
    let runtime = host.builder().supervisor(supervisor).build().unwrap();
    let starting = tokio::spawn(detached::builder(&runtime, "late").start());
    // It runs, and has a socket: it is about to say welcome.
    tokio::task::spawn_blocking(move || ready.meet())
        .await
        .unwrap();
    starting.abort();
    assert!(starting.await.unwrap_err().is_cancelled());
    tokio::task::spawn_blocking(move || go.arrive())
        .await
        .unwrap();
    nothing_left(&host).await;

    // And at moments around that in which it becomes ready.
    let runtime = detached::runtime(&host);
    let began = Instant::now();
    start(&runtime, "late").await.delete().await.unwrap();
    let usual = began.elapsed();
    for part in 10..22 {
        let start = detached::builder(&runtime, "late").start();
        match tokio::time::timeout(usual * part / 20, start).await {
            Ok(sandbox) => sandbox.unwrap().delete().await.unwrap(),
            Err(_) => nothing_left(&host).await,
        }
    }
    nothing_left(&host).await;
}

#[test]
fn what_a_test_detached_ends_with_it_even_when_it_panics() {
    let Some(host) = Host::new() else { return };
    let directory = host.directory.path().to_owned();
    let test = move || {
        let tokio = tokio::runtime::Runtime::new().unwrap();
        tokio.block_on(async {
            let sandbox = start(&runtime(&host), "left").await;
            sandbox.detach().unwrap();
        });
        assert!(!processes_of(&host.state_dir()).is_empty());
        panic!("as tests do");
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(test)).unwrap_err();
    assert!(processes_of(&directory).is_empty());
    assert!(!directory.exists());
}

/// Waits until no process and no file has to do with the tests any more.
async fn nothing_left(host: &Host) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let processes = processes_of(&host.state_dir());
        let entries = std::fs::read_dir(host.state_dir()).into_iter().flatten();
        let files: Vec<_> = entries
            .flatten()
            .map(|entry| entry.file_name())
            .filter(|name| name != ".lock")
            .collect();
        if processes.is_empty() && files.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "left behind: {processes:#?} {files:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_program_that_is_no_supervisor_is_told_by_name() {
    let Some(host) = Host::new() else { return };
    for (program, words) in [
        ("/bin/true", "ended before it was ready"),
        ("/nonexistent", "cannot start the supervisor /nonexistent"),
    ] {
        let supervisor = kata_sandbox::Supervisor::program(program);
        let runtime = host.builder().supervisor(supervisor).build().unwrap();
        let builder = runtime.sandbox("a").on_drop(OnDrop::Detach);
        let error = builder.start().await.unwrap_err();
        assert!(error.to_string().contains(words), "{error:#}");
        assert!(error.remedy().is_some());
        assert!(runtime.list().await.unwrap().is_empty());
    }
}
