//! Processes that are killed at every step, and what `recover` makes of it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::mortal::{Orders, Traces, processes_of};
use common::network::on_its_own;
use common::{Host, sh, text};
use kata_sandbox::network::{BridgePort, Cni, GuestConfig};
use kata_sandbox::{MemorySize, OnDrop, Recovered, Runtime, RuntimeBuilder, Sandbox, SandboxState};

/// More steps than there are.
const FAR: usize = 100;

/// Not a test of its own: the supervisor of the others.
#[test]
#[ignore = "is started by the other tests"]
fn supervisor_main() {
    let Some(orders) = Orders::own() else { return };
    drop(kata_sandbox::supervisor::serve(|builder| {
        orders.configure(builder)
    }));
}

/// Not a test of its own: a program with a sandbox in itself.
#[test]
#[ignore = "is started by the other tests"]
fn embedder_main() {
    let Some(orders) = Orders::own() else { return };
    let directory = orders.traces.parent().unwrap().to_owned();
    let image = std::env::var_os("KATA_GUEST_IMAGE").unwrap();
    let tokio = tokio::runtime::Runtime::new().unwrap();
    tokio.block_on(async {
        let builder = Runtime::builder()
            .state_dir(directory.join("s"))
            .guest_image(image);
        let runtime = orders.clone().configure(builder).build().unwrap();
        let host = Stage {
            directory,
            traces: orders.traces.clone(),
            network: None,
        };
        host.whole_life(&runtime, OnDrop::Kill).await.unwrap();
    });
}

/// Where it all happens.
struct Stage {
    directory: PathBuf,
    traces: PathBuf,
    /// A list of CNI plugins, where sandboxes are to have a real network.
    network: Option<String>,
}

/// What there is on the host of all this.
#[derive(Debug, PartialEq, Eq)]
struct Census {
    processes: BTreeMap<u32, String>,
    state: Vec<String>,
    /// What networks made of files have left.
    traces: Vec<String>,
    mounts: usize,
    groups: Vec<PathBuf>,
    /// Interfaces and network namespaces, and addresses that are taken.
    links: Vec<String>,
    namespaces: Vec<String>,
    leases: Vec<String>,
}

fn names(path: PathBuf) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    names
}

impl Stage {
    fn new(host: &Host) -> Self {
        let traces = host.directory.path().join("net");
        std::fs::create_dir_all(&traces).unwrap();
        host.rootfs("root");
        Self {
            directory: host.directory.path().to_owned(),
            traces,
            network: None,
        }
    }

    /// A bridge whose addresses are leased, in the namespace of this process.
    fn with_plugins(mut self) -> Self {
        let directory = self.directory.display();
        self.network = Some(format!(
            r#"{{"cniVersion": "1.0.0", "name": "pods", "plugins": [
                {{"type": "bridge", "bridge": "cni0", "isGateway": true,
                  "ipam": {{"type": "host-local", "dataDir": "{directory}/leases",
                    "ranges": [[{{"subnet": "10.7.0.0/24"}}]]}}}}]}}"#
        ));
        self
    }

    /// The control group that the mortals are in, below the roots.
    fn group(&self) -> String {
        let name = self.directory.file_name().unwrap().to_string_lossy();
        format!("kata-test-{name}")
    }

    fn orders(&self, die_at: usize) -> Orders {
        Orders {
            traces: self.traces.clone(),
            die_at,
        }
    }

    fn runtime(&self, builder: RuntimeBuilder, die_at: usize) -> Runtime {
        let supervisor = self.orders(die_at).supervisor("supervisor_main");
        let builder = self.orders(0).configure(builder);
        builder.supervisor(supervisor).build().unwrap()
    }

    async fn start(
        &self,
        runtime: &Runtime,
        id: &str,
        on_drop: OnDrop,
    ) -> kata_sandbox::Result<Sandbox> {
        let builder = runtime.sandbox(id).memory(MemorySize::mib(128));
        let mut builder = builder.boot_timeout(Duration::from_secs(60));
        if let Some(list) = &self.network {
            let cni = Cni::from_json(list).unwrap();
            builder = builder.network(cni.state_dir(self.directory.join("cni")));
        }
        if id == "mortal" && rustix::process::geteuid().is_root() {
            builder = builder.cgroup(format!("/{}/pod", self.group()));
        }
        // The bystander takes no networks later.
        let builder = builder.spare_interfaces(u32::from(id == "mortal"));
        builder.on_drop(on_drop).start().await
    }

    async fn sleeper(&self, sandbox: &Sandbox) -> kata_sandbox::Result<kata_sandbox::Container> {
        let rootfs = kata_sandbox::Rootfs::Dir(self.directory.join("root"));
        let mut spec = kata_sandbox::ContainerSpec::new(rootfs).command(["/bin/sleep", "100000"]);
        if sandbox.id() == "mortal" {
            let hook = |word: &str| {
                let script = format!("echo {word} >> {}", self.directory.join("heard").display());
                serde_json::json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
            };
            let hooks = serde_json::json!({
                "createRuntime": hook("begin"), "poststop": hook("end"),
            });
            let hooks = serde_json::from_value(hooks).unwrap();
            spec = spec.allow_host_hooks().edit_oci(|spec| {
                spec.set_hooks(Some(hooks));
            });
        }
        let container = sandbox.container("c", spec).await?;
        container.start().await?;
        Ok(container)
    }

    /// Whether hooks have heard of the end of each container of whose making
    /// they heard.
    fn hooks_have_heard(&self) -> bool {
        let heard = std::fs::read_to_string(self.directory.join("heard")).unwrap_or_default();
        let count = |word| heard.lines().filter(|line| *line == word).count();
        count("end") >= count("begin")
    }

    /// Adds a port of the plugins' bridge, or what makes a file.
    async fn add_network(&self, sandbox: &Sandbox, name: &str) -> kata_sandbox::Result<()> {
        let added = if self.network.is_some() {
            let guest = GuestConfig::new("02:00:00:00:00:77".parse().unwrap());
            sandbox
                .add_network(name, BridgePort::new("cni0", guest))
                .await
        } else {
            sandbox.add_network(name, Traces(self.traces.clone())).await
        };
        added.map(drop)
    }

    /// Starts, creates, executes, stops and deletes.
    async fn whole_life(&self, runtime: &Runtime, on_drop: OnDrop) -> kata_sandbox::Result<()> {
        let sandbox = self.start(runtime, "mortal", on_drop).await?;
        let container = self.sleeper(&sandbox).await?;
        let done = container.exec("/bin/true").output().await?;
        assert!(done.exit.success() || sandbox.state() == SandboxState::Lost);
        self.add_network(&sandbox, "more").await?;
        sandbox.remove_network("more").await?;
        self.add_network(&sandbox, "last").await?;
        container.delete().await?;
        sandbox.stop(Duration::ZERO).await?;
        sandbox.delete().await
    }

    fn census(&self) -> Census {
        let directory = self.directory.display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mut leases = names(self.directory.join("leases/pods"));
        // What the plugin keeps for itself.
        leases.retain(|name| name.starts_with("10."));
        let devices = std::fs::read_to_string("/proc/self/net/dev").unwrap();
        let mut links: Vec<_> = devices
            .lines()
            .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
            .collect();
        links.sort_unstable();
        Census {
            processes: processes_of(&self.directory),
            state: names(self.directory.join("s")),
            traces: names(self.traces.clone()),
            mounts: mounts.lines().filter(|it| it.contains(&directory)).count(),
            groups: groups(&self.group()),
            links,
            // Of the namespace's directory, others make use, too.
            namespaces: match &self.network {
                Some(_) => names("/run/netns".into()),
                None => Vec::new(),
            },
            leases,
        }
    }

    /// Recovers in a program of its own, as it were, and looks that the
    /// bystander is well and nothing else is left.
    async fn recover(&self, host: &Host, before: &Census, moment: usize) {
        let runtime = self.runtime(host.builder(), 0);
        let recovered = runtime.recover().await.unwrap();
        let mut live = 0;
        for found in recovered {
            match found {
                Recovered::Live(sandbox) => {
                    assert_eq!(sandbox.id(), "bystander", "step {moment}");
                    let container = sandbox.get("c").unwrap();
                    assert_eq!(text(&sh(&container, "echo well").await.stdout), "well\n");
                    live += 1;
                }
                Recovered::Gone {
                    id,
                    cleaned,
                    reason,
                } => {
                    assert!(cleaned && id == "mortal", "step {moment}: {id}: {reason}");
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(live, 1, "step {moment}");
        assert!(self.hooks_have_heard(), "step {moment}");
        // A monitor that was forked and not yet written down dies by itself.
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.census() != *before {
            assert!(
                Instant::now() < deadline,
                "step {moment} left behind:\n{:#?}\nbefore:\n{before:#?}",
                self.census()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Control groups of that name, in all hierarchies.
fn groups(name: &str) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mounts.lines().filter(|line| line.contains(" - cgroup"));
    let groups = mounts.map(|line| Path::new(line.split(' ').nth(4).unwrap()).join(name));
    groups.filter(|group| group.exists()).collect()
}

/// Kills a supervisor at each step of a sandbox's life, and recovers.
async fn walk(host: &Host, stage: &Stage) {
    let calm = stage.runtime(host.builder(), 0);
    let bystander = stage.start(&calm, "bystander", OnDrop::Detach).await;
    stage.sleeper(&bystander.unwrap()).await.unwrap();
    drop(calm);
    let before = stage.census();
    let mut deaths = 0;
    for moment in 1..FAR {
        let runtime = stage.runtime(host.builder(), moment);
        let lived = stage.whole_life(&runtime, OnDrop::Detach).await;
        drop(runtime);
        stage.recover(host, &before, moment).await;
        match lived {
            Ok(()) => break,
            Err(error) => println!("step {moment}: {error:#}"),
        }
        deaths = moment;
    }
    assert!((15..FAR - 1).contains(&deaths), "{deaths} steps");
    let runtime = stage.runtime(host.builder(), 0);
    let bystander = runtime.attach("bystander").await.unwrap();
    bystander.delete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supervisor_that_is_killed_at_any_step_leaves_nothing_after_recovery() {
    let Some(host) = Host::new() else { return };
    walk(&host, &Stage::new(&host)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_in_a_real_network_leaves_no_interface_namespace_or_lease() {
    if !on_its_own("one_in_a_real_network_leaves_no_interface_namespace_or_lease") {
        return;
    }
    if !Path::new("/usr/lib/cni/bridge").is_file() {
        eprintln!("skipped: there are no CNI plugins in /usr/lib/cni");
        return;
    }
    let Some(host) = Host::new() else { return };
    let stage = Stage::new(&host).with_plugins();
    walk(&host, &stage).await;
    let left = stage.census();
    assert!(
        !left.links.iter().any(|it| it.starts_with("veth")),
        "{left:?}"
    );
    assert!(
        left.leases.is_empty() && left.namespaces.is_empty(),
        "{left:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_killed_at_any_step_leaves_nothing_after_recovery() {
    let Some(host) = Host::new() else { return };
    let stage = Stage::new(&host);
    let calm = stage.runtime(host.builder(), 0);
    let bystander = stage.start(&calm, "bystander", OnDrop::Detach).await;
    stage.sleeper(&bystander.unwrap()).await.unwrap();
    drop(calm);
    let before = stage.census();
    let mut deaths = 0;
    for moment in 1..FAR {
        let status = std::process::Command::new("/proc/self/exe")
            .args(stage.orders(moment).arguments("embedder_main"))
            .env("KATA_GUEST_IMAGE", host.image())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        stage.recover(&host, &before, moment).await;
        if status.success() {
            break;
        }
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(status.signal(), Some(9), "step {moment}: {status}");
        deaths = moment;
    }
    assert!((13..FAR - 1).contains(&deaths), "{deaths} steps");
    let runtime = stage.runtime(host.builder(), 0);
    let bystander = runtime.attach("bystander").await.unwrap();
    bystander.delete().await.unwrap();
}
