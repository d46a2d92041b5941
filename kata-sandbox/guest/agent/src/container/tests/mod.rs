//! Whole containers, made from busybox on this very kernel.
//!
//! Each test runs itself once more as the first process of new namespaces, as
//! the agent is; that needs root.

mod failures;
mod guard;
mod isolation;
mod life;
mod limits;
mod oci;
mod streams;
mod volumes;

use std::future::Future;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use kata_protocol::agent::{
    CreateContainerRequest, ExecProcessRequest, Linux, LinuxCapabilities, LinuxNamespace, Mount,
    Process, ReadStreamRequest, RemoveContainerRequest, Root, Spec, StartContainerRequest,
    WaitProcessRequest, WaitProcessResponse,
};
use kata_protocol::ttrpc::Status;

use super::{Config, Containers};
use crate::stdio::Streams;

const INSIDE: &str = "KATA_AGENT_TEST_INSIDE";

/// Runs `body` as pid 1 of new namespaces; `name` is the calling test's path.
fn run_as_init<F: Future<Output = ()>>(name: &str, body: impl FnOnce(Machine) -> F) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let limit = std::time::Duration::from_secs(60);
            tokio::time::timeout(limit, async { body(Machine::new()).await })
                .await
                .expect("the test is done in time");
        });
        return;
    }
    if !rustix::process::geteuid().is_root() || !Path::new("/bin/busybox").exists() {
        eprintln!("skipped: needs root and /bin/busybox");
        return;
    }
    let output = Command::new("unshare")
        .args(["-m", "-p", "-n", "-u", "-i", "-f", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "no test {name}: {text}");
}

macro_rules! as_init {
    ($name:ident, $body:expr) => {
        #[test]
        fn $name() {
            let path = concat!(module_path!(), "::", stringify!($name));
            let (_, path) = path.split_once("::").unwrap();
            $crate::container::tests::run_as_init(path, $body);
        }
    };
}
use as_init;

/// A place to run containers in.
struct Machine {
    directory: tempfile::TempDir,
    streams: Rc<Streams>,
    containers: Rc<Containers>,
}

impl Machine {
    fn new() -> Self {
        // As in a guest, whose first root cannot be replaced.
        super::make_root_pivotable().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let cgroup = directory.path().join("cgroup");
        std::fs::create_dir(&cgroup).unwrap();
        let none = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", &cgroup, "cgroup2", none, None).unwrap();
        for controller in std::fs::read_to_string(cgroup.join("cgroup.controllers"))
            .unwrap()
            .split(' ')
        {
            let _ = std::fs::write(
                cgroup.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
        // Others use the same hierarchy.
        let own = cgroup.join(format!("agent-test-{}", std::process::id()));
        let own = own.with_extension(directory.path().file_name().unwrap());
        std::fs::create_dir(&own).unwrap();
        build_rootfs(&directory.path().join("rootfs"));
        let streams = Streams::new();
        let containers = Containers::new(Config {
            cgroup_root: own,
            pipe_size: None,
            streams: Rc::clone(&streams),
        });
        Self {
            directory,
            streams,
            containers: containers.unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A container that runs a shell script.
    fn request(&self, id: &str, script: &str) -> CreateContainerRequest {
        CreateContainerRequest {
            container_id: id.into(),
            oci: Some(self.spec(shell(script))),
            ..CreateContainerRequest::default()
        }
    }

    fn spec(&self, process: Process) -> Spec {
        let namespace = |kind: &str| LinuxNamespace {
            r#type: kind.into(),
            path: String::new(),
        };
        Spec {
            version: "1.2.0".into(),
            process: Some(process),
            root: Some(Root {
                path: self.path("rootfs").to_str().unwrap().into(),
                readonly: false,
            }),
            hostname: "box".into(),
            mounts: vec![
                mount("proc", "/proc", "proc", &[]),
                mount(
                    "tmpfs",
                    "/dev",
                    "tmpfs",
                    &["nosuid", "mode=755", "size=64k"],
                ),
                mount(
                    "devpts",
                    "/dev/pts",
                    "devpts",
                    &["newinstance", "ptmxmode=0666", "mode=620"],
                ),
            ],
            linux: Some(Linux {
                namespaces: ["pid", "mount", "ipc", "uts"].map(namespace).to_vec(),
                ..Linux::default()
            }),
            ..Spec::default()
        }
    }

    async fn create_and_start(&self, request: CreateContainerRequest) -> u32 {
        let id = request.container_id.clone();
        self.containers.create(request).await.unwrap();
        self.start(&id).await.unwrap()
    }

    async fn start(&self, id: &str) -> Result<u32, Status> {
        let request = StartContainerRequest {
            container_id: id.into(),
        };
        self.containers
            .start(request)
            .await
            .map(|started| started.pid)
    }

    async fn wait(&self, id: &str, exec_id: &str) -> WaitProcessResponse {
        let request = WaitProcessRequest {
            container_id: id.into(),
            exec_id: exec_id.into(),
        };
        self.containers.wait(request).await.unwrap()
    }

    async fn exec(&self, id: &str, exec_id: &str, process: Process) -> Result<u32, Status> {
        let request = ExecProcessRequest {
            container_id: id.into(),
            exec_id: exec_id.into(),
            process: Some(process),
            ..ExecProcessRequest::default()
        };
        self.containers
            .exec(request)
            .await
            .map(|started| started.pid)
    }

    /// All of a process's standard output.
    async fn output(&self, id: &str, exec_id: &str) -> String {
        let mut all = Vec::new();
        loop {
            let request = ReadStreamRequest {
                container_id: id.into(),
                exec_id: exec_id.into(),
                len: 1000,
            };
            let data = self.containers.read_stdout(request).await.unwrap().data;
            if data.is_empty() {
                return String::from_utf8(all).unwrap();
            }
            all.extend(data);
        }
    }

    /// Runs a container to its end; gives its output and status.
    async fn run(&self, request: CreateContainerRequest) -> (String, i32) {
        let id = request.container_id.clone();
        self.create_and_start(request).await;
        let output = self.output(&id, "").await;
        let status = self.wait(&id, "").await.status;
        self.remove(&id).await.unwrap();
        (output, status)
    }

    async fn remove(&self, id: &str) -> Result<(), Status> {
        let request = RemoveContainerRequest {
            container_id: id.into(),
            timeout: 10,
        };
        self.containers.remove(request).await
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let cgroup = &self.containers.config.cgroup_root;
        if !std::thread::panicking() {
            let left: Vec<_> = std::fs::read_dir(cgroup)
                .unwrap()
                .flatten()
                .filter(|entry| entry.path().is_dir())
                .collect();
            assert!(left.is_empty(), "cgroups are left: {left:?}");
            std::fs::remove_dir(cgroup).unwrap();
        }
        let _ = rustix::mount::unmount(self.path("cgroup"), rustix::mount::UnmountFlags::DETACH);
    }
}

fn build_rootfs(root: &Path) {
    for directory in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "echo", "id", "sleep", "true", "ls", "grep", "stat", "tty", "kill",
    ]
    .into_iter()
    .chain([
        "dd", "hostname", "stty", "touch", "readlink", "mount", "mkdir", "env", "head", "wc",
    ]) {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nbob:x:1000:1000::/home/bob:\n",
    )
    .unwrap();
    std::fs::write(
        root.join("etc/group"),
        "root:x:0:\nbob:x:1000:\nstaff:x:50:bob\n",
    )
    .unwrap();
}

fn shell(script: &str) -> Process {
    let all = |names: &[&str]| names.iter().map(|n| format!("CAP_{n}")).collect::<Vec<_>>();
    let few = all(&["CHOWN", "KILL", "SETUID", "SETGID", "DAC_OVERRIDE", "MKNOD"]);
    Process {
        args: ["/bin/sh", "-c", script].map(String::from).to_vec(),
        env: vec!["PATH=/bin".into()],
        cwd: "/".into(),
        capabilities: Some(LinuxCapabilities {
            bounding: few.clone(),
            effective: few.clone(),
            permitted: few,
            ..LinuxCapabilities::default()
        }),
        ..Process::default()
    }
}

fn mount(source: &str, destination: &str, kind: &str, options: &[&str]) -> Mount {
    Mount {
        source: source.into(),
        destination: destination.into(),
        r#type: kind.into(),
        options: options.iter().map(ToString::to_string).collect(),
        ..Mount::default()
    }
}
