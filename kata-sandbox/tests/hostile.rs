//! Agents that hang, lie and die; hosts that lack things. No guest is needed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use common::fake::{self, Fault};
use kata_sandbox::network::{self, Lease, Network, SetupRequest};
use kata_sandbox::{
    ContainerSpec, ContainerState, Error, ErrorKind, Exit, MemorySize, OnDrop, Recovered, Rootfs,
    Sandbox, SandboxExit, SandboxState, StdioMode,
};
use rustix::fs::FlockOperation;

const SHORT: Duration = Duration::from_millis(300);

fn directory() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("kata")
        .tempdir_in("/tmp")
        .unwrap()
}

async fn start(directory: &Path, fault: Fault) -> Result<Sandbox, Error> {
    let runtime = fake::runtime(directory, fault).build().unwrap();
    runtime
        .sandbox("s")
        .boot_timeout(Duration::from_secs(2))
        .call_timeout(SHORT)
        .start()
        .await
}

fn assert_nothing_left(directory: &Path) {
    let left: Vec<_> = std::fs::read_dir(directory.join("s"))
        .unwrap()
        .flatten()
        .collect();
    assert_eq!(left.len(), 1, "{left:?}"); // the lock
}

async fn fault(fault: Fault) -> Error {
    let directory = directory();
    let began = Instant::now();
    let error = start(directory.path(), fault).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(4), "{error}");
    assert_nothing_left(directory.path());
    error
}

#[tokio::test]
async fn an_agent_that_never_comes_is_a_timeout_with_phase_and_console() {
    let error = fault(Fault::Silent).await;
    assert_eq!(
        (error.kind(), error.phase()),
        (ErrorKind::Timeout, Some("guest boot"))
    );
    assert_eq!(error.console_tail(), Some(&b"last words"[..]));
    assert!(error.is_retryable());
}

#[tokio::test]
async fn an_agent_that_speaks_garbage_or_hangs_up_is_lost() {
    for bad in [Fault::Garbage, Fault::HangsUp] {
        let error = fault(bad).await;
        assert_eq!(error.kind(), ErrorKind::GuestLost, "{error:#}");
        assert_eq!(error.phase(), Some("set up guest"));
        assert_eq!(error.console_tail(), Some(&b"last words"[..]));
    }
}

#[tokio::test]
async fn an_agent_that_answers_nothing_is_a_timeout() {
    let error = fault(Fault::Deaf).await;
    assert_eq!(
        (error.kind(), error.phase()),
        (ErrorKind::Timeout, Some("set up guest"))
    );
}

#[tokio::test]
async fn an_agent_that_refuses_is_quoted() {
    let error = fault(Fault::Refuses).await;
    assert!(
        format!("{error:#}").contains("CreateSandbox: no such tag"),
        "{error:#}"
    );
}

#[tokio::test]
async fn a_guest_that_panics_says_so() {
    let error = fault(Fault::Panics).await;
    assert_eq!(error.kind(), ErrorKind::GuestLost);
    assert!(error.to_string().contains("panicked"), "{error}");
}

#[tokio::test]
async fn a_missing_monitor_says_what_to_install() {
    let error = fault(Fault::NoMachine).await;
    assert_eq!(error.kind(), ErrorKind::HostNotCapable);
    assert!(
        error.remedy().unwrap().contains("install fake-vmm"),
        "{error}"
    );
}

#[tokio::test]
async fn a_damaged_image_is_named_whatever_it_booted() {
    let directory = directory();
    let builder = fake::runtime(directory.path(), Fault::None);
    std::fs::write(directory.path().join("image/vmlinux"), b"KERNEL").unwrap();
    let runtime = builder.build().unwrap();
    let error = runtime.sandbox("s").start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(
        format!("{error:#}").contains("vmlinux of guest image test is damaged"),
        "{error:#}"
    );
    std::fs::remove_file(directory.path().join("image/manifest.json")).unwrap();
    let error = runtime.sandbox("s").start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_nothing_left(directory.path());
}

fn sleeper() -> ContainerSpec {
    ContainerSpec::new(Rootfs::Dir("/tmp".into())).stdio(StdioMode::Piped)
}

#[tokio::test]
async fn a_slow_create_is_a_timeout_and_frees_its_id() {
    let directory = directory();
    let sandbox = start(directory.path(), Fault::SlowCreate).await.unwrap();
    for _ in 0..2 {
        let error = sandbox.container("c", sleeper()).await.unwrap_err();
        assert_eq!((error.kind(), error.target()), (ErrorKind::Timeout, "s/c"));
    }
    assert!(sandbox.containers().is_empty());
    sandbox.delete().await.unwrap();
    assert_nothing_left(directory.path());
}

#[tokio::test]
async fn a_guest_that_dies_loses_its_processes_and_its_sandbox() {
    let directory = directory();
    let sandbox = start(directory.path(), Fault::DiesAtWait).await.unwrap();
    let container = sandbox.container("c", sleeper()).await.unwrap();
    let process = container.start().await.unwrap();
    assert_eq!(process.wait().await.unwrap(), Exit::Lost);
    let exit = sandbox.wait().await;
    assert_eq!(
        exit,
        SandboxExit::GuestPanic {
            console_tail: b"last words".to_vec()
        }
    );
    assert_eq!(sandbox.state(), SandboxState::Lost);
    let error = sandbox.stats().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GuestLost);
    assert_eq!(error.console_tail(), Some(&b"last words"[..]));
    assert_eq!(container.state(), ContainerState::Stopped);
    assert_eq!(container.delete().await.unwrap(), Some(Exit::Lost));
    sandbox.stop(Duration::ZERO).await.unwrap();
    assert_nothing_left(directory.path());
}

#[tokio::test]
async fn a_healthy_agent_is_served_and_what_it_lacks_is_unsupported() {
    let directory = directory();
    let sandbox = start(directory.path(), Fault::None).await.unwrap();
    assert_eq!(
        sandbox.pause().await.unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    assert_eq!(
        sandbox.resume().await.unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    let resized = sandbox.resize(2, MemorySize::mib(256)).await;
    assert_eq!(resized.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(
        sandbox.dial_tcp(80).await.unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    assert_eq!(
        sandbox.dial_vsock(9).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(sandbox.stats().await.unwrap().guest, None);
    let container = sandbox.container("c", sleeper()).await.unwrap();
    assert_eq!(sandbox.get("c").unwrap().id(), "c");
    assert_eq!(sandbox.get("d").unwrap_err().kind(), ErrorKind::NotFound);
    let process = container.start().await.unwrap();
    assert_eq!(process.pid(), Some(7));
    let error = process
        .resize(kata_sandbox::PtySize { rows: 1, cols: 1 })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidState);
    let error = container.exec("/bin/true").spawn().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = container.stats().await.unwrap_err();
    assert!(format!("{error:#}").contains("StatsContainer"), "{error:#}");
    sandbox.stop(Duration::ZERO).await.unwrap();
    assert_eq!(process.wait().await.unwrap(), Exit::Signal(9));
    assert_nothing_left(directory.path());
}

#[tokio::test]
async fn a_start_given_up_and_a_dropped_sandbox_leave_nothing() {
    let directory = directory();
    for moment in [0, 1, 2, 4, 8, 16] {
        let limit = Duration::from_millis(moment);
        drop(tokio::time::timeout(limit, start(directory.path(), Fault::None)).await);
        gone_soon(directory.path()).await;
    }
    let sandbox = start(directory.path(), Fault::None).await.unwrap();
    let container = sandbox.container("c", sleeper()).await.unwrap();
    drop(sandbox);
    assert_eq!(container.state(), ContainerState::Created); // it keeps its sandbox
    drop(container);
    gone_soon(directory.path()).await;
}

async fn gone_soon(directory: &Path) {
    for _ in 0..500 {
        let entries = std::fs::read_dir(directory.join("s"))
            .into_iter()
            .flatten()
            .count();
        if entries <= 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_nothing_left(directory);
}

#[tokio::test]
async fn what_makes_no_sandbox_is_refused_before_anything_is_made() {
    let directory = directory();
    let runtime = fake::runtime(directory.path(), Fault::None)
        .build()
        .unwrap();
    let long = "x".repeat(300);
    let table = [
        (runtime.sandbox("a/b"), ErrorKind::InvalidConfig),
        (runtime.sandbox(""), ErrorKind::InvalidConfig),
        (runtime.sandbox(long), ErrorKind::InvalidConfig),
        (runtime.sandbox("a").vcpus(0), ErrorKind::InvalidConfig),
        (
            runtime.sandbox("a").vcpus(4).max_vcpus(2),
            ErrorKind::InvalidConfig,
        ),
        (
            runtime.sandbox("a").memory(MemorySize::mib(1)),
            ErrorKind::InvalidConfig,
        ),
        (
            runtime.sandbox("a").max_memory(MemorySize::mib(32)),
            ErrorKind::InvalidConfig,
        ),
        (
            runtime.sandbox("a").kernel_parameter("two words"),
            ErrorKind::InvalidConfig,
        ),
        (
            runtime.sandbox("a").boot_timeout(Duration::ZERO),
            ErrorKind::InvalidConfig,
        ),
        (
            runtime.sandbox("a").hypervisor("other"),
            ErrorKind::InvalidConfig,
        ),
        (
            runtime.sandbox("a").on_drop(OnDrop::Detach),
            ErrorKind::Unsupported,
        ),
    ];
    for (builder, kind) in table {
        let error = builder.plan().unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(builder.start().await.unwrap_err().kind(), kind);
    }
    assert!(!directory.path().join("s").exists());
    assert_eq!(runtime.probe().await[0].0, "fake");
}

#[tokio::test]
async fn a_plan_says_what_will_be_made_and_makes_nothing() {
    let directory = directory();
    let runtime = fake::runtime(directory.path(), Fault::None)
        .build()
        .unwrap();
    let builder = runtime
        .sandbox("planned")
        .vcpus(2)
        .max_vcpus(4)
        .hypervisor("fake")
        .kernel_parameter("debug")
        .network(Broken);
    let plan = builder.plan().unwrap();
    let text = plan.to_string();
    for part in [
        "planned",
        "2, at most 4",
        "128 MiB",
        "quiet debug",
        "kataShared",
        "\"broken\"",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(!directory.path().join("s").exists());
    let long = fake::runtime(directory.path(), Fault::None)
        .state_dir(format!("/tmp/{}", "d".repeat(90)))
        .build()
        .unwrap();
    let error = long.sandbox("a").plan().unwrap_err();
    assert!(error.to_string().contains("too long a path"), "{error}");
}

/// A network that is set up and cannot be taken down.
#[derive(Debug)]
struct Broken;

#[network::async_trait]
impl Network for Broken {
    fn name(&self) -> &str {
        "broken"
    }

    async fn setup(&self, _: &SetupRequest) -> network::Result<Lease> {
        let mut lease = Lease::new();
        lease.netns = Some("/run/netns/x".into());
        Ok(lease)
    }

    async fn teardown(&self, _: &str) -> network::Result<()> {
        Err(network::Error::Unsupported {
            network: "broken".into(),
            operation: "teardown",
        })
    }
}

#[tokio::test]
async fn a_tear_down_that_fails_is_reported_and_left_for_recovery() {
    let directory = directory();
    let runtime = fake::runtime(directory.path(), Fault::None)
        .network(Broken)
        .build()
        .unwrap();
    let sandbox = runtime.sandbox("s").start().await.unwrap();
    let error = sandbox.stop(Duration::ZERO).await.unwrap_err();
    assert!(
        format!("{error:#}").contains("network broken does not support"),
        "{error:#}"
    );
    assert_eq!(sandbox.state(), SandboxState::Stopped);
    drop(sandbox);
    let recovered = runtime.recover().await.unwrap();
    let [
        Recovered::Gone {
            id,
            cleaned: false,
            reason,
        },
    ] = &recovered[..]
    else {
        panic!("{recovered:?}")
    };
    assert!(id == "s" && reason.contains("broken"), "{reason}");
}

#[tokio::test]
async fn a_live_sandbox_is_recovered_as_it_is() {
    let directory = directory();
    let runtime = fake::runtime(directory.path(), Fault::None)
        .build()
        .unwrap();
    let sandbox = runtime.sandbox("s").label("k", "v").start().await.unwrap();
    let recovered = runtime.recover().await.unwrap();
    assert!(
        matches!(&recovered[..], [Recovered::Live(it)] if it.id() == "s"),
        "{recovered:?}"
    );
    assert_eq!(sandbox.labels()["k"], "v");
    let other = fake::runtime(directory.path(), Fault::None)
        .build()
        .unwrap();
    let error = other.sandbox("s").start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(
        error.to_string().contains(&std::process::id().to_string()),
        "{error}"
    );
    assert_eq!(sandbox.state(), SandboxState::Running);
}

/// What a supervisor that went mad is: a lock that is held, and a socket on
/// which nonsense is said.
fn rave(state: &Path, id: &str) -> std::fs::File {
    let lock = std::fs::File::open(state.join(id).join("lock")).unwrap();
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let socket = UnixListener::bind(state.join(id).join("control")).unwrap();
    std::thread::spawn(move || {
        for visitor in socket.incoming() {
            let mut said = [0; 8];
            let mut visitor = visitor.unwrap();
            visitor.read_exact(&mut said).unwrap();
            visitor.write_all(&[0xff; 16]).unwrap();
        }
    });
    lock
}

/// Leaves what a program that was killed leaves of such a sandbox.
fn left_by_a_dead(state: &Path, id: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let directory = state.join(id);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("lock"), "").unwrap();
    let mut record = serde_json::json!({
        "version": 2, "id": id, "network": null, "monitor": null, "cgroups": [],
        "owner": {"pid": 1, "start_time": 0, "boot_id": "another"},
    });
    change(&mut record);
    std::fs::write(directory.join("state.json"), record.to_string()).unwrap();
}

#[tokio::test]
async fn one_that_does_not_answer_or_is_damaged_keeps_no_other_from_recovery() {
    let directory = directory();
    let builder = || fake::runtime(directory.path(), Fault::None);
    let runtime = builder().build().unwrap();
    let live = runtime.sandbox("live").start().await.unwrap();
    let state = directory.path().join("s");
    for id in ["mad", "dead", "damaged"] {
        left_by_a_dead(&state, id, |_| {});
    }
    let _lock = rave(&state, "mad");
    std::fs::write(state.join("damaged/state.json"), "nonsense").unwrap();

    let recovered = runtime.recover().await.unwrap();
    let mut told: Vec<_> = recovered
        .iter()
        .map(|found| match found {
            Recovered::Live(sandbox) => ("live", sandbox.id(), None),
            Recovered::Gone {
                id, cleaned: true, ..
            } => ("gone", &**id, None),
            Recovered::Failed { id, error } => ("failed", &**id, Some(error)),
            other => panic!("{other:?}"),
        })
        .collect();
    told.sort_unstable_by_key(|(_, id, _)| *id);
    let words: Vec<_> = told.iter().map(|(what, id, _)| (*what, *id)).collect();
    let expected = [
        ("failed", "damaged"),
        ("gone", "dead"),
        ("live", "live"),
        ("failed", "mad"),
    ];
    assert_eq!(words, expected);
    let (damaged, mad) = (told[0].2.unwrap(), told[3].2.unwrap());
    assert_eq!(damaged.kind(), ErrorKind::InvalidState);
    assert_eq!(damaged.target(), "damaged");
    assert!(damaged.remedy().unwrap().contains("s/damaged"), "{damaged}");
    assert_eq!(mad.kind(), ErrorKind::Protocol);
    assert_eq!(mad.target(), "mad");
    assert!(mad.remedy().unwrap().contains("end that process"), "{mad}");
    // And a list names it, too.
    let listed = runtime.list().await.unwrap();
    let states: Vec<_> = listed.iter().map(|it| (&*it.id, it.state)).collect();
    let expected = [
        ("damaged", SandboxState::Lost),
        ("live", SandboxState::Running),
        ("mad", SandboxState::Unknown),
    ];
    assert_eq!(states, expected);
    live.delete().await.unwrap();
}

#[tokio::test]
async fn hooks_of_a_dead_supervisor_s_containers_hear_of_their_ends_once() {
    let directory = directory();
    let state = directory.path().join("s");
    let heard = directory.path().join("heard");
    let script = format!("cat >> {}", heard.display());
    let hooks = serde_json::json!([{
        "container": "c", "directory": null, "state": {"id": "c", "status": "stopped"},
        "hooks": [
            {"path": "/nonexistent"},
            {"path": "/bin/sh", "args": ["sh", "-c", script]},
        ],
    }]);
    let left = || left_by_a_dead(&state, "s", |record| record["hooks"] = hooks.clone());
    left();
    let runtime = fake::runtime(directory.path(), Fault::None);
    let runtime = runtime.build().unwrap();
    let recovered = runtime.recover().await.unwrap();
    let gone = matches!(&recovered[..], [Recovered::Gone { id, cleaned: true, .. }] if id == "s");
    assert!(gone, "{recovered:?}");
    let told = r#"{"id":"c","status":"stopped"}"#;
    assert_eq!(std::fs::read_to_string(&heard).unwrap(), told);
    assert!(runtime.recover().await.unwrap().is_empty());
    // The next start of that id tells them, too.
    left();
    let sandbox = runtime.sandbox("s").start().await.unwrap();
    assert_eq!(
        std::fs::read_to_string(&heard).unwrap(),
        format!("{told}{told}")
    );
    sandbox.delete().await.unwrap();
}

#[tokio::test]
async fn hooks_hear_of_containers_that_nobody_deleted() {
    let directory = directory();
    let heard = directory.path().join("heard");
    let runtime = fake::runtime(directory.path(), Fault::None);
    let runtime = runtime.build().unwrap();
    let hook = serde_json::json!({"poststop": [
        {"path": "/bin/sh", "args": ["sh", "-c", format!("echo x >> {}", heard.display())]},
    ]});
    for (count, delete) in [(1, true), (2, false)] {
        let sandbox = runtime.sandbox("s").start().await.unwrap();
        let hooks = serde_json::from_value(hook.clone()).unwrap();
        let spec = ContainerSpec::new(Rootfs::Dir(directory.path().to_owned()))
            .allow_host_hooks()
            .edit_oci(|spec| {
                spec.set_hooks(Some(hooks));
            });
        let container = sandbox.container("c", spec).await.unwrap();
        drop(container);
        let record = std::fs::read_to_string(directory.path().join("s/s/state.json")).unwrap();
        assert!(record.contains("echo x"), "{record}");
        if delete {
            sandbox.delete().await.unwrap();
        } else {
            drop(sandbox);
            // The next start waits for nobody: the id is free when all is done.
            let deadline = Instant::now() + Duration::from_secs(20);
            while directory.path().join("s/s").exists() {
                assert!(Instant::now() < deadline);
                tokio::task::yield_now().await;
            }
        }
        let lines = std::fs::read_to_string(&heard).unwrap().lines().count();
        assert_eq!(lines, count);
    }
}
