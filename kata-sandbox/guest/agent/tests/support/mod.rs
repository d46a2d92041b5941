//! The agent, started on this machine in namespaces of its own.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "each test file uses a part of this, and a step that fails fails the test"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kata_protocol::agent::agent_client::AgentServiceClient;
use kata_protocol::agent::{CreateSandboxRequest, DestroySandboxRequest};
use kata_protocol::health::HealthClient;
use kata_protocol::port;
use kata_protocol::ttrpc::Client;
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};

/// A deadline that only a broken agent meets.
pub(crate) const DEADLINE: Option<Duration> = Some(Duration::from_secs(20));

/// A running agent.
pub(crate) struct Agent {
    pub(crate) process: Child,
    pub(crate) service: AgentServiceClient,
    pub(crate) health: HealthClient,
    directory: TempDir,
}

/// Whether this test can run here; says why not.
#[must_use]
pub(crate) fn able() -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: starting the agent in namespaces of its own needs root");
        return false;
    }
    for tool in ["unshare", "mount", "ip"] {
        let found = ["/bin", "/sbin", "/usr/bin", "/usr/sbin"]
            .iter()
            .any(|directory| Path::new(directory).join(tool).exists());
        if !found {
            eprintln!("skipped: there is no {tool} (util-linux, iproute2)");
            return false;
        }
    }
    true
}

impl Agent {
    /// Starts an agent after running `setup`, shell commands, in its namespaces.
    pub(crate) async fn start(setup: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent");
        let announcement =
            UnixListener::bind(directory.path().join(format!("agent_{}", port::AGENT))).unwrap();
        let script = format!(
            "set -e
            mount --make-rprivate /
            mount -t tmpfs tmpfs /run
            mount -t cgroup2 cgroup2 /sys/fs/cgroup
            {setup}
            exec \"$0\""
        );
        let process = Command::new("unshare")
            .args(["--mount", "--net", "--ipc", "--uts", "sh", "-c", &script])
            .arg(env!("CARGO_BIN_EXE_kata-agent"))
            .env(
                "KATA_AGENT_SERVER_ADDR",
                format!("unix://{}", socket.display()),
            )
            .env("KATA_AGENT_LOG_LEVEL", "debug")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let stream = tokio::time::timeout(Duration::from_secs(20), announcement.accept())
            .await
            .expect("the agent does not announce itself")
            .unwrap();
        let client = Client::new(stream.0);
        Self {
            process,
            service: AgentServiceClient(client.clone()),
            health: HealthClient(client),
            directory,
        }
    }

    /// Another connection.
    pub(crate) async fn connect(&self) -> AgentServiceClient {
        let stream = UnixStream::connect(self.directory.path().join("agent"))
            .await
            .unwrap();
        AgentServiceClient(Client::new(stream))
    }

    /// The socket that stands for a port.
    #[must_use]
    pub(crate) fn port(&self, port: u32) -> PathBuf {
        self.directory.path().join(format!("agent_{port}"))
    }

    /// A path as the agent sees it.
    #[must_use]
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.process.id()))
    }

    /// What is mounted where the agent is.
    #[must_use]
    pub(crate) fn mounts(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/mountinfo", self.process.id())).unwrap()
    }

    /// Makes a sandbox.
    pub(crate) async fn create_sandbox(&self) {
        let request = CreateSandboxRequest {
            hostname: "box".into(),
            sandbox_id: "s".into(),
            ..CreateSandboxRequest::default()
        };
        self.service
            .create_sandbox(&request, DEADLINE)
            .await
            .unwrap();
    }

    /// Ends the sandbox, and with it the agent.
    pub(crate) async fn destroy(mut self) {
        self.service
            .destroy_sandbox(&DestroySandboxRequest {}, DEADLINE)
            .await
            .unwrap();
        let status = tokio::task::spawn_blocking(move || {
            let status = self.process.wait().unwrap();
            drop(self);
            status
        });
        let status = tokio::time::timeout(Duration::from_secs(20), status).await;
        assert!(
            status
                .expect("the agent did not go down")
                .unwrap()
                .success()
        );
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Dead already after `destroy`.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
