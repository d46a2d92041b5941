//! Agents that hang, lie and die; hosts that lack things. No guest is needed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::fake::{self, Fault};
use kata_sandbox::network::{self, Lease, Network, SetupRequest};
use kata_sandbox::{
    ContainerSpec, ContainerState, Error, ErrorKind, Exit, MemorySize, OnDrop, Recovered, Rootfs,
    Sandbox, SandboxExit, SandboxState, StdioMode,
};

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
