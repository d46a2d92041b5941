//! containerd's CRI plugin drives kata-runc, as a kubelet would have it.
#![expect(clippy::unwrap_used, reason = "a suite ends where it fails")]

#[path = "../client/mod.rs"]
mod client;
#[path = "../common/mod.rs"]
mod common;
mod grpc;
mod messages;

use std::path::Path;
use std::process::Command;

use client::{Client, apart, image};
use common::{has, lacks_guest, ran};
use grpc::Service;
use messages::*;

/// `ContainerState` and `PodSandboxState`.
const RUNNING: i32 = 1;
const EXITED: i32 = 2;
const READY: i32 = 0;
/// `NamespaceMode`: the pod's, or the container's own.
const POD: i32 = 0;
const OWN: i32 = 1;

/// Debian's CNI plugins.
const PLUGINS: &str = "/usr/lib/cni";

struct Cri {
    containerd: Client,
    service: Service,
}

/// containerd, with a network of its own for pods.
fn cri() -> Option<Cri> {
    let lacking = lacks_guest().or_else(|| {
        let installed = has("containerd") && has("ctr") && has("containerd-shim-runc-v2");
        let plugins = ["bridge", "host-local", "loopback"];
        let plugged = plugins
            .iter()
            .all(|it| Path::new(PLUGINS).join(it).exists());
        match (installed, plugged) {
            (false, _) => Some("containerd is not installed"),
            (true, false) => Some("the CNI plugins are not installed"),
            (true, true) => None,
        }
    });
    if let Some(reason) = lacking {
        eprintln!("skipped: {reason}");
        return None;
    }
    let mut containerd = Client::new("ctr", |directory, runtime, command| {
        configure(directory, runtime);
        command.args(["--namespace", "k8s.io", "--address"]);
        command.arg(directory.join("c.sock"));
    });
    let directory = containerd.directory().to_owned();
    let start = |containerd: &mut Client| {
        let mut daemon = apart("containerd");
        daemon.arg("-c").arg(directory.join("config.toml"));
        containerd.start_daemon(daemon, "c.sock", &["version"])
    };
    if let Some(reason) = start(&mut containerd) {
        eprintln!("skipped: containerd does not work here: {reason}");
        return None;
    }
    for (name, command) in [
        ("pause", ["/bin/sleep", "1000000"]),
        ("bb", ["/bin/sh", ""]),
    ] {
        let image = image::archive(&directory, name, &command);
        containerd.ok(&["image", "import", "--snapshotter", "native", &image]);
    }
    // The plugin hears of new images some time later, and knows all that there
    // are from its start on.
    containerd.end_daemon();
    let _ = std::fs::remove_file(directory.join("c.sock"));
    assert_eq!(start(&mut containerd), None);
    let service = Service {
        socket: directory.join("c.sock"),
        name: "runtime.v1.RuntimeService",
    };
    Some(Cri {
        containerd,
        service,
    })
}

fn configure(directory: &Path, runtime: &Path) {
    let at = |name: &str| directory.join(name).display().to_string();
    let configuration = format!(
        r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{opt}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:latest"
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{PLUGINS}"
conf_dir = "{cni}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
default_runtime_name = "kata"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata.options]
BinaryName = "{runtime}"
"#,
        root = at("root"),
        state = at("state"),
        socket = at("c.sock"),
        opt = at("opt"),
        cni = at("cni"),
        runtime = runtime.display(),
    );
    std::fs::write(directory.join("config.toml"), configuration).unwrap();
    let network = serde_json::json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": "pods0",
            "isGateway": true,
            "ipam": {
                "type": "host-local",
                "dataDir": at("leases"),
                "ranges": [[{"subnet": "10.93.0.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    });
    std::fs::create_dir(directory.join("cni")).unwrap();
    std::fs::write(directory.join("cni/10-pods.conflist"), network.to_string()).unwrap();
}

impl Cri {
    #[track_caller]
    fn ok<A: prost::Message + Default>(&self, method: &str, question: &impl prost::Message) -> A {
        self.service.call(method, question).unwrap()
    }

    fn pod(&self, name: &str) -> PodSandboxConfig {
        let directory = self.containerd.directory();
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.into(),
                uid: name.into(),
                namespace: "default".into(),
            }),
            hostname: name.into(),
            log_directory: directory.join("logs").display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}", directory.file_name().unwrap().display()),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(NamespaceOption { pid: OWN }),
                    // That its containers may be.
                    privileged: true,
                }),
            }),
        }
    }

    fn run_pod(&self, pod: &PodSandboxConfig) -> String {
        let question = RunPodSandbox {
            config: Some(pod.clone()),
            runtime_handler: "kata".into(),
        };
        self.ok::<Id>("RunPodSandbox", &question).id
    }

    /// Makes a container of the pod; it is not started yet.
    fn create(&self, pod: (&str, &PodSandboxConfig), own: ContainerConfig) -> Result<Id, String> {
        let question = CreateContainer {
            pod_sandbox_id: pod.0.into(),
            config: Some(own),
            sandbox_config: Some(pod.1.clone()),
        };
        self.service.call("CreateContainer", &question)
    }

    fn run(&self, pod: (&str, &PodSandboxConfig), own: ContainerConfig) -> String {
        let made = self.create(pod, own).unwrap();
        let _: Empty = self.ok("StartContainer", &made);
        made.id
    }

    /// What a command in a container wrote, and its status.
    fn exec(&self, container: &str, script: &str) -> (String, i32) {
        let question = ExecSync {
            container_id: container.into(),
            cmd: ["/bin/sh", "-c", script].map(String::from).to_vec(),
            timeout: 60,
        };
        let executed: Executed = self.ok("ExecSync", &question);
        let said = String::from_utf8(executed.stdout).unwrap();
        (said, executed.exit_code)
    }

    fn stop(&self, container: &str, timeout: i64) -> ContainerStatus {
        let question = StopContainer {
            container_id: container.into(),
            timeout,
        };
        let _: Empty = self.ok("StopContainer", &question);
        self.status(container)
    }

    fn status(&self, container: &str) -> ContainerStatus {
        let question = Id {
            id: container.into(),
        };
        let answer: ContainerStatusAnswer = self.ok("ContainerStatus", &question);
        answer.status.unwrap()
    }

    /// Stops a pod and removes it.
    fn remove_pod(&self, pod: &str) {
        let question = Id { id: pod.into() };
        let _: Empty = self.ok("StopPodSandbox", &question);
        let _: Empty = self.ok("RemovePodSandbox", &question);
    }

    /// That neither the plugin nor the host has anything of pods.
    fn assert_nothing_is_left(&self) {
        for method in ["ListPodSandbox", "ListContainers"] {
            let listed: Listed = self.ok(method, &Empty {});
            assert_eq!(listed.items, [], "{method}");
        }
        let directory = self.containerd.directory();
        for sandboxes in std::fs::read_dir(directory.join("s")).unwrap().flatten() {
            let left = std::fs::read_dir(sandboxes.path()).unwrap().flatten();
            let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
            assert_eq!(left, [".lock"]);
        }
        for lease in std::fs::read_dir(directory.join("leases/pods"))
            .unwrap()
            .flatten()
        {
            let name = lease.file_name().into_string().unwrap();
            assert!(!name.starts_with("10."), "the lease of {name} is left");
        }
    }
}

impl Drop for Cri {
    /// However a test ends, its pods do.
    fn drop(&mut self) {
        let listed = self.service.call::<Listed>("ListPodSandbox", &Empty {});
        for pod in listed.into_iter().flat_map(|listed| listed.items) {
            for method in ["StopPodSandbox", "RemovePodSandbox"] {
                // What fails is left to look at.
                let _ = self.service.call::<Empty>(method, &pod);
            }
        }
    }
}

fn shell(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: name.into(),
            attempt: 0,
        }),
        image: Some(ImageSpec {
            image: "localhost/bb:latest".into(),
        }),
        command: ["/bin/sh", "-c", script].map(String::from).to_vec(),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                privileged: false,
                namespace_options: Some(NamespaceOption { pid: OWN }),
            }),
        }),
    }
}

fn security(own: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    let linux = own.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap()
}

#[test]
fn a_pods_containers_share_a_machine_and_its_network() {
    let Some(cri) = cri() else { return };
    let config = cri.pod("pod");
    let id = cri.run_pod(&config);
    let pod = (id.as_str(), &config);
    let answer: PodSandboxStatusAnswer = cri.ok("PodSandboxStatus", &Id { id: id.clone() });
    let status = answer.status.unwrap();
    assert_eq!(status.state, READY);
    let address = status.network.unwrap().ip;
    assert!(address.starts_with("10.93.0."), "{address:?}");

    let serving = "echo logged; while true; do echo hello | nc -l -p 8080; done";
    let web = cri.run(pod, shell("web", serving));
    let waiting = "trap 'exit 3' TERM; while true; do sleep 0.1; done";
    let other = cri.run(pod, shell("other", waiting));
    let asking = |address: &str| format!("until nc {address} 8080; do sleep 0.1; done");
    assert_eq!(
        cri.exec(&other, &asking("127.0.0.1")),
        ("hello\n".into(), 0)
    );
    let mut outside = Command::new("nsenter");
    let daemon = cri.containerd.daemon_pid().to_string();
    outside.args(["-t", &daemon, "-n"]).arg(common::busybox());
    outside.args(["sh", "-c", &asking(&address).replace("nc", "busybox nc")]);
    assert_eq!(ran(&outside, "").stdout, "hello\n");
    let told = cri.exec(&other, "hostname; exit 7");
    assert_eq!(told, ("pod\n".into(), 7));
    let boot = "cat /proc/sys/kernel/random/boot_id";
    assert_eq!(cri.exec(&web, boot), cri.exec(&other, boot));
    let own = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_ne!(cri.exec(&web, boot).0, own);

    let question = Id { id: other.clone() };
    let stats: ContainerStatsAnswer = cri.ok("ContainerStats", &question);
    let memory = stats.stats.unwrap().memory.unwrap();
    assert!(memory.working_set_bytes.unwrap().value > 0);

    // One of them is restarted, as a kubelet does it: by another in its place.
    let ended = cri.stop(&other, 60);
    assert_eq!((ended.state, ended.exit_code), (EXITED, 3));
    let _: Empty = cri.ok("RemoveContainer", &Id { id: other });
    let mut again = shell("other", waiting);
    again.metadata.as_mut().unwrap().attempt = 1;
    let other = cri.run(pod, again);
    assert_eq!(cri.status(&other).state, RUNNING);
    assert_eq!(cri.exec(&other, &asking("127.0.0.1")).0, "hello\n");
    assert_eq!(cri.stop(&web, 0).exit_code, 137);
    let log = std::fs::read_to_string(cri.containerd.directory().join("logs/web.log")).unwrap();
    assert!(log.contains("stdout F logged"), "{log}");
    cri.remove_pod(&id);
    cri.assert_nothing_is_left();
}

#[test]
fn pods_have_containers_that_fail_share_processes_and_are_privileged() {
    let Some(cri) = cri() else { return };
    let config = cri.pod("odd");
    let id = cri.run_pod(&config);
    let pod = (id.as_str(), &config);
    let mut missing = shell("missing", "");
    missing.command = vec!["/nosuch".into()];
    let made = cri.create(pod, missing).unwrap();
    let failed = cri
        .service
        .call::<Empty>("StartContainer", &made)
        .unwrap_err();
    assert!(failed.contains("no such file or directory"), "{failed}");
    assert_eq!(cri.status(&made.id).state, EXITED);

    let sleeping = cri.run(pod, shell("sleeping", "exec sleep 7777"));
    let mut seeing = shell("seeing", "exec sleep 1000");
    security(&mut seeing).namespace_options = Some(NamespaceOption { pid: POD });
    let seeing = cri.run(pod, seeing);
    let (processes, _) = cri.exec(&seeing, "ps");
    assert!(
        processes.contains("sleep 1000000"),
        "the pod's own: {processes}"
    );
    assert!(!processes.contains("sleep 7777"), "{processes}");

    let mut privileged = shell("privileged", "exec sleep 1000");
    security(&mut privileged).privileged = true;
    let privileged = cri.run(pod, privileged);
    let script = "grep CapEff /proc/self/status; ls /dev";
    let (told, _) = cri.exec(&privileged, script);
    assert!(told.contains("ffffff"), "{told}");
    assert!(!told.contains("autofs"), "a device of the host: {told}");
    assert_eq!(cri.stop(&sleeping, 0).state, EXITED);
    // With what still runs in it.
    cri.remove_pod(&id);
    cri.assert_nothing_is_left();
}
