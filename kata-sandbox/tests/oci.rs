//! What a specification asks of the host: hooks, disks, devices, namespaces.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{Host, detached, leftovers::Census, sh, text};
use kata_protocol::manifest::{FILE, ImageFile, Manifest};
use kata_sandbox::{
    Container, ContainerSpec, ErrorKind, Exit, MemorySize, Mount, Namespace, Rootfs, Sandbox,
    SandboxBuilder, StdioMode,
};

const PATIENCE: Duration = Duration::from_secs(120);

async fn start(builder: SandboxBuilder) -> Sandbox {
    match builder.boot_timeout(PATIENCE).start().await {
        Ok(sandbox) => sandbox,
        Err(error) => {
            let console = String::from_utf8_lossy(error.console_tail().unwrap_or_default());
            panic!("{error:#}\n{console}");
        }
    }
}

/// What a script in a container says, after a success.
async fn said(container: &Container, script: &str) -> String {
    let output = sh(container, script).await;
    let complaint = text(&output.stderr);
    assert_eq!(output.exit, Exit::Code(0), "{script}: {complaint}");
    text(&output.stdout)
}

/// An image of an ext4 file system with what is in `root`.
fn ext4(host: &Host, name: &str, root: &Path) -> Option<PathBuf> {
    let image = host.directory.path().join(name);
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-d"])
        .arg(root)
        .arg(&image)
        .arg("16M")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .status();
    match made {
        Ok(status) if status.success() => Some(image),
        other => {
            eprintln!("skipped: mkfs.ext4 makes no file system: {other:?}");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_of_the_host_hear_of_a_containers_life() {
    let Some(host) = Host::new() else { return };
    let before = Census::take(&host.state_dir());
    let runtime = host.runtime();
    let sandbox = host.start(&runtime, "hooks").await;
    let log = host.directory.path().join("log");
    let hook = |kind: &str| {
        let script = format!("echo {kind} $(cat) >> {}", log.display());
        serde_json::json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 60}])
    };
    let hooks = serde_json::json!({
        "prestart": hook("prestart"), "createRuntime": hook("createRuntime"),
        "poststart": hook("poststart"), "poststop": hook("poststop"),
    });
    let spec = |hooks: &serde_json::Value| {
        let hooks = serde_json::from_value(hooks.clone()).unwrap();
        host.spec(&host.rootfs("root"), "exec sleep 1000")
            .host_pid(4242)
            .edit_oci(|spec| {
                spec.set_hooks(Some(hooks));
            })
    };
    let refused = sandbox.container("c", spec(&hooks)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused:#}");

    let heard = || {
        let lines = std::fs::read_to_string(&log).unwrap_or_default();
        let line = |line: &str| {
            let (kind, state) = line.split_once(' ').unwrap();
            let state: serde_json::Value = serde_json::from_str(state).unwrap();
            assert_eq!((&state["id"], &state["pid"]), (&"c".into(), &4242.into()));
            format!("{kind} {}", state["status"].as_str().unwrap())
        };
        lines.lines().map(line).collect::<Vec<_>>()
    };
    let container = sandbox
        .container("c", spec(&hooks).allow_host_hooks())
        .await
        .unwrap();
    assert_eq!(heard(), ["prestart creating", "createRuntime creating"]);
    container.start().await.unwrap();
    assert_eq!(heard()[2..], ["poststart running"]);
    container.delete().await.unwrap();
    assert_eq!(heard()[3..], ["poststop stopped"]);

    let failing = serde_json::json!({
        "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "echo no >&2; exit 9"]}],
        "poststop": hook("poststop"),
    });
    let failed = sandbox
        .container("c", spec(&failing).allow_host_hooks())
        .await
        .unwrap_err();
    let told = failed.to_string();
    assert!(told.contains("/bin/sh ended with status 9: no"), "{told}");
    assert_eq!(heard()[4..], ["poststop stopped"]);
    assert!(sandbox.containers().is_empty());
    sandbox.delete().await.unwrap();
    drop(runtime);
    before.assert_same_soon(&host.state_dir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_file_system_on_a_disk_works_on_every_machine() {
    let Some(host) = Host::new() else { return };
    let Some(image) = ext4(&host, "disk", &host.rootfs("root")) else {
        return;
    };
    let block = || {
        let rootfs = Rootfs::Block {
            path: image.clone(),
            fstype: "ext4".into(),
        };
        ContainerSpec::new(rootfs).command(["/bin/sh", "-c", "exec sleep 1000"])
    };
    let runtime = host.runtime();
    let small = start(runtime.sandbox("small")).await;
    let refused = small.container("c", block()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused:#}");
    small.delete().await.unwrap();

    let described = runtime.sandbox("described").disk(&image, false);
    let plugged = runtime.sandbox("plugged").spare_disks(2);
    for (builder, word) in [(described, "one"), (plugged, "two")] {
        let sandbox = start(builder).await;
        let container = sandbox.container("c", block()).await.unwrap();
        container.start().await.unwrap();
        let root = said(
            &container,
            "stat -f -c %T / ; cat /data/word 2>/dev/null || true",
        )
        .await;
        let before = if word == "one" { "" } else { "one\n" };
        assert_eq!(root, format!("ext2/ext3\n{before}"), "{word}");
        said(&container, &format!("echo {word} > /data/word; sync")).await;
        container.delete().await.unwrap();
        // It can be had again at once, by the same machine.
        let again = sandbox.container("c", block()).await.unwrap();
        again.start().await.unwrap();
        assert_eq!(said(&again, "cat /data/word").await, format!("{word}\n"));
        sandbox.delete().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_device_of_the_host_is_one_of_the_container() {
    let Some(host) = Host::new() else { return };
    let image = host.directory.path().join("image");
    std::fs::write(
        &image,
        [b"on the loop device".as_slice(), &[0; 1 << 20]].concat(),
    )
    .unwrap();
    let Some(device) = Loop::attach(&image) else {
        return;
    };
    let runtime = host.runtime();
    let sandbox = start(runtime.sandbox("loop").disk(&device.0, false)).await;
    let (major, minor) = device.number();
    let spec = host
        .spec(&host.rootfs("root"), "exec sleep 1000")
        .mount(Mount::share(&device.0, "/dev/bound"))
        .edit_oci(|spec| {
            let devices = serde_json::json!([
                {"path": "/dev/listed", "type": "b", "major": major, "minor": minor},
                {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438},
            ]);
            let rules = serde_json::json!([
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "b", "major": major, "minor": minor, "access": "rw"},
                {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
            ]);
            let linux = spec.linux_mut().as_mut().unwrap();
            linux.set_devices(serde_json::from_value(devices).unwrap());
            let resources = linux.resources_mut().as_mut().unwrap();
            resources.set_devices(serde_json::from_value(rules).unwrap());
        });
    let container = sandbox.container("c", spec).await.unwrap();
    container.start().await.unwrap();
    for path in ["/dev/listed", "/dev/bound"] {
        let read = said(&container, &format!("head -c 18 {path}")).await;
        assert_eq!(read, "on the loop device", "{path}");
    }
    said(&container, "test -c /dev/fuse && : < /dev/fuse").await;
    said(&container, "printf in > /dev/listed && sync").await;
    sandbox.delete().await.unwrap();
    assert!(std::fs::read(&image).unwrap().starts_with(b"in the loop"));
}

/// A loop device, until it is dropped.
struct Loop(String);

impl Loop {
    fn attach(image: &Path) -> Option<Self> {
        let made = Command::new("/sbin/losetup")
            .args(["--find", "--show"])
            .arg(image)
            .output();
        match made {
            Ok(made) if made.status.success() => Some(Self(text(&made.stdout).trim().to_owned())),
            other => {
                eprintln!("skipped: no loop device can be had: {other:?}");
                None
            }
        }
    }

    fn number(&self) -> (u32, u32) {
        use std::os::unix::fs::MetadataExt as _;
        let device = std::fs::metadata(&self.0).unwrap().rdev();
        (rustix::fs::major(device), rustix::fs::minor(device))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("/sbin/losetup").args(["-d", &self.0]).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_share_process_ids_where_they_are_told_to() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let sandbox = start(runtime.sandbox("apart")).await;
    let first = host.sleeper(&sandbox, "first").await;
    let beside = |container: &str| {
        host.spec(&host.rootfs("beside"), "exec sleep 2000")
            .join(Namespace::Pid, container)
    };
    let missing = sandbox.container("x", beside("nobody")).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::InvalidState, "{missing:#}");
    let second = sandbox.container("second", beside("first")).await.unwrap();
    second.start().await.unwrap();
    let seen = said(&second, "ps -o args | grep -c 'sleep [1]00000'").await;
    assert_eq!(seen, "1\n");
    drop(first);
    sandbox.delete().await.unwrap();

    let sandbox = start(runtime.sandbox("shared").share_process_ids()).await;
    let first = host.sleeper(&sandbox, "first").await;
    let second = host.sleeper(&sandbox, "second").await;
    for container in [&first, &second] {
        let seen = said(container, "ps -o args | grep -c 'sleep [1]00000'").await;
        assert_eq!(seen, "2\n");
    }
    sandbox.delete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mounts_are_as_clients_write_them() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let sandbox = start(runtime.sandbox("mounts")).await;
    let state = host.directory.path().join("client");
    std::fs::create_dir_all(state.join("volume/below")).unwrap();
    for name in ["hosts", "hostname", "resolv.conf"] {
        std::fs::write(state.join(name), format!("{name}\n")).unwrap();
    }
    let file =
        |name: &str| Mount::share(state.join(name), format!("/etc/{name}")).option("rprivate");
    let spec = host
        .spec(&host.rootfs("root"), "exec sleep 1000")
        .mount(file("hosts"))
        .mount(file("hostname").read_only())
        .mount(file("resolv.conf"))
        .mount(Mount::share(state.join("volume"), "/data/new/volume"))
        .mount(Mount::share("/sys", "/host/sys").read_only())
        .mount(Mount::share(state.join("shm"), "/dev/shm"))
        .stdio(StdioMode::Null);
    let container = sandbox.container("c", spec).await.unwrap();
    container.start().await.unwrap();
    for name in ["hosts", "hostname", "resolv.conf"] {
        assert_eq!(
            said(&container, &format!("cat /etc/{name}")).await,
            format!("{name}\n")
        );
    }
    assert!(
        !sh(&container, "echo x > /etc/hostname")
            .await
            .exit
            .success()
    );
    // What one side writes, the other reads.
    std::fs::write(state.join("hosts"), "127.0.0.1 changed\n").unwrap();
    std::fs::write(state.join("volume/below/host"), "from the host").unwrap();
    assert_eq!(
        // A guest may believe what it knows of a file for a second.
        said(
            &container,
            "until grep -q changed /etc/hosts; do sleep 0.1; done; cat /etc/hosts"
        )
        .await,
        "127.0.0.1 changed\n"
    );
    assert_eq!(
        said(&container, "cat /data/new/volume/below/host").await,
        "from the host"
    );
    said(&container, "echo from the guest > /data/new/volume/guest").await;
    assert_eq!(
        std::fs::read_to_string(state.join("volume/guest")).unwrap(),
        "from the guest\n"
    );
    let types = said(
        &container,
        "awk '$2 == \"/host/sys\" || $2 == \"/dev/shm\" || $2 == \"/sys/fs/cgroup\" \
         { print $2, $3 }' /proc/mounts | sort -u",
    )
    .await;
    assert_eq!(
        types,
        "/dev/shm tmpfs\n/host/sys sysfs\n/sys/fs/cgroup cgroup2\n"
    );
    sandbox.delete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_is_resized_while_it_runs() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let (small, large) = (MemorySize::mib(128), MemorySize::mib(384));
    let builder = runtime.sandbox("grows").memory(small);
    let sandbox = start(builder.max_vcpus(3).max_memory(large)).await;
    let container = host.sleeper(&sandbox, "c").await;
    let total = async || {
        let total = said(&container, "awk '/MemTotal/ { print $2 }' /proc/meminfo").await;
        total.trim().parse::<u64>().unwrap()
    };
    let before = total().await;
    assert_eq!(said(&container, "nproc").await, "1\n");
    let grown = sandbox.resize(3, large).await.unwrap();
    assert_eq!(grown, (3, large));
    assert_eq!(said(&container, "nproc").await, "3\n");
    let after = total().await;
    assert!(after > before + (200 << 10), "{before} to {after} KiB");
    let shrunk = sandbox.resize(1, small).await.unwrap();
    assert!(shrunk.1 < large, "{shrunk:?}");
    assert!(total().await < after, "{shrunk:?}");
    let refused = sandbox.resize(9, large).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidConfig, "{refused:#}");
    sandbox.delete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_monitor_is_in_its_control_group_with_the_limits() {
    let Some(host) = Host::new() else { return };
    let before = Census::take(&host.state_dir());
    let runtime = host.runtime();
    let name = format!("/kata-test-{}/pod", std::process::id());
    let resources = serde_json::json!({
        "cpu": {"shares": 2048, "quota": 400_000, "period": 100_000}, "memory": {"limit": 1 << 26},
    });
    let resources = serde_json::from_value(resources).unwrap();
    let builder = runtime.sandbox("grouped").cgroup(&name);
    let builder = builder.host_limits(&resources);
    let sandbox = match builder.boot_timeout(PATIENCE).start().await {
        Ok(sandbox) => sandbox,
        Err(error) if error.kind() == ErrorKind::Denied => {
            eprintln!("skipped: this user makes no control groups here: {error:#}");
            return;
        }
        Err(error) => panic!("{error:#}"),
    };
    let monitor = monitor();
    assert_in(monitor, &name);
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    assert!(
        !own.contains(&name),
        "this program is not the sandbox's: {own}"
    );
    let container = host.sleeper(&sandbox, "c").await;
    assert!(sh(&container, "true").await.exit.success());
    drop(container);
    sandbox.delete().await.unwrap();
    drop(runtime);
    let outer = format!("kata-test-{}", std::process::id());
    assert_eq!(left(&outer), Vec::<PathBuf>::new());
    before.assert_same_soon(&host.state_dir());
}

/// This process's QEMU; there is one.
fn monitor() -> u32 {
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in list.split_whitespace() {
            let name = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            if name.starts_with("qemu") {
                return child.parse().unwrap();
            }
        }
    }
    panic!("this process has no QEMU");
}

/// An image whose agent is on a root disk: the kernel of the host's image, and
/// an ext4 file system with the agent as its init.
fn image_with_a_disk(host: &Host) -> Option<PathBuf> {
    let Some(agent) = std::env::var_os("KATA_AGENT") else {
        eprintln!("skipped: KATA_AGENT names no agent");
        return None;
    };
    let root = host.directory.path().join("guest");
    for part in ["dev", "proc", "run", "sys", "tmp", "etc/kata"] {
        std::fs::create_dir_all(root.join(part)).unwrap();
    }
    std::fs::copy(agent, root.join("init")).unwrap();
    std::fs::write(root.join("etc/kata/modules"), "").unwrap();
    let disk = ext4(host, "root.img", &root)?;
    let image = host.directory.path().join("image");
    std::fs::create_dir(&image).unwrap();
    std::fs::rename(disk, image.join("root.img")).unwrap();
    std::fs::copy(host.image().join("vmlinux"), image.join("vmlinux")).unwrap();
    let describe = |name: &str| ImageFile::describe(&image.join(name)).unwrap();
    let mut manifest = Manifest::load(host.image()).unwrap();
    manifest.kernel = describe("vmlinux");
    manifest.initramfs = None;
    manifest.disk = Some(describe("root.img"));
    manifest.kernel_parameters = ["root=/dev/vda", "rootfstype=ext4", "ro", "init=/init"]
        .map(str::to_owned)
        .into();
    let json = serde_json::to_vec(&manifest).unwrap();
    std::fs::write(image.join(FILE), json).unwrap();
    Some(image)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_image_may_be_a_root_disk() {
    let Some(host) = Host::new() else { return };
    let Some(image) = image_with_a_disk(&host) else {
        return;
    };
    let runtime = host.builder().guest_image(&image).build().unwrap();
    let data = host.directory.path().join("data");
    std::fs::write(&data, [b"more".as_slice(), &[0; 1 << 16]].concat()).unwrap();
    // Another disk does not take its place.
    let sandbox = start(runtime.sandbox("disk").disk(&data, true)).await;
    let container = host.sleeper(&sandbox, "c").await;
    assert_eq!(said(&container, "echo works").await, "works\n");
    sandbox.delete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supervisor_is_in_the_control_group_that_outlives_no_crash() {
    let Some(host) = Host::new() else { return };
    let runtime = detached::runtime(&host);
    let outer = format!("kata-test-{}-supervised", std::process::id());
    let start = || {
        let builder = detached::builder(&runtime, "supervised").boot_timeout(PATIENCE);
        builder.cgroup(format!("/{outer}/pod")).start()
    };
    let sandbox = match start().await {
        Ok(sandbox) => sandbox,
        Err(error) if error.kind() == ErrorKind::Denied => {
            eprintln!("skipped: this user makes no control groups here: {error:#}");
            return;
        }
        Err(error) => panic!("{error:#}"),
    };
    let record = detached::record(&host, "supervised");
    for process in ["owner", "monitor"] {
        let pid = record[process]["pid"].as_u64().unwrap();
        assert_in(pid.try_into().unwrap(), &format!("/{outer}/pod"));
    }
    sandbox.delete().await.unwrap();
    assert_eq!(left(&outer), Vec::<PathBuf>::new());

    let victim = start().await.unwrap();
    detached::kill_supervisor(&host, "supervised");
    victim.wait().await;
    drop(victim);
    let recovered = runtime.recover().await.unwrap();
    assert_eq!(left(&outer), Vec::<PathBuf>::new(), "{recovered:?}");
}

/// Checks that a process is in that group, in each hierarchy that is mounted.
fn assert_in(pid: u32, name: &str) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    // The kernel tells of version 2 once it was mounted, for ever.
    let mounted = |line: &&str| mounts.contains(" - cgroup2 ") || !line.starts_with("0::");
    for line in groups.lines().filter(mounted) {
        assert!(line.ends_with(&format!(":{name}")), "{pid}: {line}");
    }
}

/// Control groups of that name, in all hierarchies.
fn left(name: &str) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mounts.lines().filter(|line| line.contains(" - cgroup"));
    let groups = mounts.map(|line| Path::new(line.split(' ').nth(4).unwrap()).join(name));
    groups.filter(|group| group.exists()).collect()
}
