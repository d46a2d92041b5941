//! Agents that do not announce themselves, as in a released Kata image: they
//! are dialled, and their processes' streams are what they offer.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{Host, leftovers::Census, sh, text};
use kata_image::ForeignImage;
use kata_protocol::manifest::Manifest;
use kata_sandbox::{
    ErrorKind, Exit, MemorySize, PtySize, RuntimeBuilder, Sandbox, Signal, StdioMode,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A copy of the image whose manifest knows of no agent.
fn without_agent(image: &Path, copy: &Path) {
    std::fs::create_dir(copy).unwrap();
    for entry in std::fs::read_dir(image).unwrap().flatten() {
        let name = entry.file_name();
        if name != "manifest.json" {
            symlink(entry.path(), copy.join(name)).unwrap();
        }
    }
    let manifest = std::fs::read(image.join("manifest.json")).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    manifest.as_object_mut().unwrap().remove("agent").unwrap();
    std::fs::write(copy.join("manifest.json"), manifest.to_string()).unwrap();
}

async fn start(builder: RuntimeBuilder, parameters: &[&str]) -> Sandbox {
    let runtime = builder.build().unwrap();
    let sandbox = runtime.sandbox("foreign").memory(MemorySize::mib(128));
    let sandbox = parameters
        .iter()
        .fold(sandbox, |sandbox, word| sandbox.kernel_parameter(*word));
    match sandbox.boot_timeout(Duration::from_secs(60)).start().await {
        Ok(sandbox) => sandbox,
        Err(error) => {
            let console = text(error.console_tail().unwrap_or_default());
            panic!("{error:#}\n{console}");
        }
    }
}

/// All that a process's streams have to carry.
async fn streams_work(host: &Host, sandbox: &Sandbox) {
    let rootfs = host.rootfs("streams");
    let script = "read x; echo got $x; echo err >&2; exit 3";
    let spec = host.spec(&rootfs, script).stdio(StdioMode::Piped);
    let container = sandbox.container("c", spec).await.unwrap();
    let mut process = container.start().await.unwrap();
    let mut input = process.take_stdin().unwrap();
    input.write_all(b"it\n").await.unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    let mut stdout = process.take_stdout().unwrap();
    stdout.read_to_string(&mut out).await.unwrap();
    let mut stderr = process.take_stderr().unwrap();
    stderr.read_to_string(&mut err).await.unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("got it\n", "err\n"));
    assert_eq!(process.wait().await.unwrap(), Exit::Code(3));
    container.delete().await.unwrap();

    let container = host.sleeper(sandbox, "exec").await;
    let much = sh(&container, "head -c 300000 /dev/zero; echo end >&2; exit 7").await;
    assert_eq!((much.stdout.len(), much.exit), (300_000, Exit::Code(7)));
    assert_eq!(text(&much.stderr), "end\n");
    let quiet = container.exec("/bin/echo").args(["unheard"]).spawn();
    assert_eq!(quiet.await.unwrap().wait().await.unwrap(), Exit::Code(0));
    input_ends(&container).await;
    a_terminal_works(&container).await;
    let log = host.directory.path().join("log");
    let logged = container
        .exec("/bin/sh")
        .args(["-c", "echo to the log"])
        .stdio(StdioMode::Log(log.clone()));
    assert!(
        logged
            .spawn()
            .await
            .unwrap()
            .wait()
            .await
            .unwrap()
            .success()
    );
    assert_eq!(std::fs::read_to_string(log).unwrap(), "to the log\n");
    container.delete().await.unwrap();
}

async fn input_ends(container: &kata_sandbox::Container) {
    let counted = container.exec("/bin/wc").args(["-c"]);
    let mut counted = counted.stdio(StdioMode::Piped).spawn().await.unwrap();
    let mut input = counted.take_stdin().unwrap();
    input.write_all(&[b'x'; 200_000]).await.unwrap();
    input.shutdown().await.unwrap();
    let mut count = String::new();
    let mut stdout = counted.take_stdout().unwrap();
    stdout.read_to_string(&mut count).await.unwrap();
    assert_eq!(count.trim(), "200000");
    drop(counted.take_stderr());
    assert_eq!(counted.wait().await.unwrap(), Exit::Code(0));
}

async fn a_terminal_works(container: &kata_sandbox::Container) {
    let size = PtySize { rows: 30, cols: 90 };
    let shell = container
        .exec("/bin/sh")
        .args(["-c", "stty size; read x; exit 4"])
        .stdio(StdioMode::Pty(size));
    let mut shell = shell.spawn().await.unwrap();
    let mut input = shell.take_stdin().unwrap();
    input.write_all(b"go\n").await.unwrap();
    let (mut output, mut seen) = (shell.take_stdout().unwrap(), Vec::new());
    output.read_to_end(&mut seen).await.unwrap();
    assert!(text(&seen).contains("30 90"), "{}", text(&seen));
    assert_eq!(shell.wait().await.unwrap(), Exit::Code(4));
}

async fn remove_once_there(path: &Path) {
    while std::fs::remove_file(path).is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_the_manifest_does_not_know_is_dialled() {
    let Some(host) = Host::new() else { return };
    let before = Census::take(&host.state_dir());
    let image = host.directory.path().join("image");
    without_agent(host.image(), &image);
    let builder = host.builder().guest_image(&image);
    // Ours would announce itself all the same, were it heard.
    let ear = host.state_dir().join("foreign/vm/vsock_1024");
    let (sandbox, ()) = tokio::join!(start(builder, &[]), remove_once_there(&ear));
    streams_work(&host, &sandbox).await;
    sandbox.delete().await.unwrap();
    before.assert_same_soon(&host.state_dir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_without_a_port_for_streams_is_asked_for_them() {
    let Some(host) = Host::new() else { return };
    let before = Census::take(&host.state_dir());
    let manifest = std::fs::read(host.image().join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let file = |kind: &str| host.image().join(manifest[kind]["file"].as_str().unwrap());
    let builder = host
        .builder()
        .guest_files(file("kernel"), file("initramfs"));
    // It listens for streams elsewhere: where they are looked for is nobody.
    let sandbox = start(builder, &["agent.passfd_listener_port=1031"]).await;
    streams_work(&host, &sandbox).await;
    let container = host.sleeper(&sandbox, "stalled").await;
    let endless = container.exec("/bin/yes").stdio(StdioMode::Piped);
    let mut endless = endless.spawn().await.unwrap();
    let unread = endless.take_stdout().unwrap();
    endless.kill(Signal::KILL).await.unwrap();
    drop(unread);
    assert_eq!(endless.wait().await.unwrap(), Exit::Signal(9));
    let missing = container.exec("/bin/nope").spawn().await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing:#}");
    let spec = host
        .spec(&host.rootfs("unread"), "exec yes")
        .stdio(StdioMode::Piped);
    let unread = sandbox.container("unread", spec).await.unwrap();
    let unread_process = unread.start().await.unwrap();
    assert_eq!(unread.delete().await.unwrap(), Some(Exit::Signal(9)));
    container.delete().await.unwrap();
    sandbox.delete().await.unwrap();
    drop((endless, unread_process));
    before.assert_same_soon(&host.state_dir());
}

/// A partition table with one partition of such sectors, as Kata's image builder
/// writes it.
fn table(first: u32, sectors: u32) -> [u8; 512] {
    let mut sector = [0; 512];
    let entry = &mut sector[446..462];
    entry[4] = 0x83; // Linux
    entry[8..12].copy_from_slice(&first.to_le_bytes());
    entry[12..16].copy_from_slice(&sectors.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// A directory as a release of Kata Containers has it: a kernel, and a disk with
/// a partition table, space for the header of a persistent memory device with a
/// table of its own, and the root file system at 3 MiB.
fn release(host: &Host, init: Option<&str>) -> Option<PathBuf> {
    const MIB: usize = 1 << 20;
    let Some(agent) = std::env::var_os("KATA_AGENT") else {
        eprintln!("skipped: KATA_AGENT names no agent");
        return None;
    };
    let manifest = Manifest::load(host.image()).unwrap();
    if !manifest.modules.is_empty() {
        eprintln!(
            "skipped: the image's kernel finds its disks by modules, and a release's does not"
        );
        return None;
    }
    let root = host.rootfs("guest");
    for part in ["dev", "proc", "run", "sys", "sbin", "usr/bin", "etc/kata"] {
        std::fs::create_dir_all(root.join(part)).unwrap();
    }
    std::fs::copy(agent, root.join("usr/bin/kata-agent")).unwrap();
    std::fs::write(root.join("etc/kata/modules"), "").unwrap();
    match init {
        Some(script) => {
            std::fs::write(root.join("sbin/init"), script).unwrap();
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(root.join("sbin/init"), mode).unwrap();
        }
        None => symlink("/usr/bin/kata-agent", root.join("sbin/init")).unwrap(),
    }
    let ext4 = host.directory.path().join("ext4");
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-d"])
        .args([root.as_path(), ext4.as_path(), Path::new("24M")])
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: mkfs.ext4 makes no file system");
        return None;
    }
    let mut disk = vec![0; 3 * MIB];
    let sectors = 24 * 2048;
    disk[..512].copy_from_slice(&table(3 * 2048, sectors));
    disk[2 * MIB..2 * MIB + 512].copy_from_slice(&table(2048, sectors));
    disk.extend(std::fs::read(&ext4).unwrap());
    let release = host.directory.path().join("release");
    std::fs::create_dir(&release).unwrap();
    std::fs::write(release.join("kata-containers.img"), disk).unwrap();
    let kernel = host.image().join(manifest.kernel.file);
    std::fs::copy(kernel, release.join("vmlinux.container")).unwrap();
    Some(release)
}

/// Runs a container in a guest of that release, with the words that Kata's
/// runtime gives such a guest.
async fn runs(host: &Host, release: &Path) {
    let image = host.directory.path().join("imported");
    let words = "systemd.unit=kata-containers.target systemd.mask=systemd-networkd.service \
                 agent.log=debug agent.debug_console";
    let foreign = ForeignImage::from_release(release).unwrap();
    let words = words.split_whitespace().map(str::to_owned);
    let manifest = foreign.kernel_parameters(words).import(&image, &|_| {});
    let manifest = manifest.unwrap();
    assert!(manifest.disk.is_some() && manifest.agent.is_none());
    let before = Census::take(&host.state_dir());
    let sandbox = start(host.builder().guest_image(&image), &[]).await;
    let container = host.sleeper(&sandbox, "c").await;
    let said = sh(&container, "echo works; grep -o 'root=[^ ]*' /proc/cmdline").await;
    assert_eq!(text(&said.stdout), "works\nroot=/dev/vda1\n");
    drop(container);
    sandbox.delete().await.unwrap();
    before.assert_same_soon(&host.state_dir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_released_disk_whose_agent_is_the_init_is_booted() {
    let Some(host) = Host::new() else { return };
    let Some(release) = release(&host, None) else {
        return;
    };
    runs(&host, &release).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_released_disk_whose_init_starts_the_agent_is_booted() {
    let Some(host) = Host::new() else { return };
    // What systemd has done by the time at which it starts the agent.
    let init = "#!/bin/busybox sh
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp; mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t devtmpfs devtmpfs /dev; mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts; mount -t tmpfs tmpfs /dev/shm
/usr/bin/kata-agent &
while :; do wait; done
";
    let Some(release) = release(&host, Some(init)) else {
        return;
    };
    runs(&host, &release).await;
}
