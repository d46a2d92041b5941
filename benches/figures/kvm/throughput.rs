//! How fast disks and network cards are, against QEMU's own device models with
//! the same guest: `make bench FIGURES=io`.
//!
//! Where KVM runs stock kernels, the in-process backend against QEMU with KVM.
//! Elsewhere the guest is emulated, and our models serve it by vhost-user.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kata_devices::blk::BlkConfig;
use kata_devices::net::{Link, NetConfig, Tap};
use kata_devices::vhost_user::Server;
use kata_image::cpio::{Archive, Entry};
use kata_sandbox::hypervisor::kvm::Kvm;
use kata_sandbox::hypervisor::qemu::Qemu;
use kata_sandbox::hypervisor::{Hypervisor, NicBackend, NicConfig, StopMode, VmConfig};

use super::machine::{MAC, MTU, Place, disk};
use super::wire::{GUEST, HOST, Wire};
use super::{MEMORY, Outcome};
use crate::Kit;
use crate::table::{Bar, Table};

const ROUNDS: usize = 5;
/// What is written, read, sent and received.
const MEBIBYTES: u64 = 64;
/// What the guest measures, and what that is called.
const RATES: [(&str, &str); 5] = [
    ("disk-write", "disk: 256 KiB writes, ours / QEMU's model"),
    ("disk-read", "disk: 256 KiB reads, ours / QEMU's model"),
    (
        "disk-small",
        "disk: 4 KiB reads in turn, ours / QEMU's model",
    ),
    ("net-send", "network: the guest sends, ours / QEMU's model"),
    (
        "net-receive",
        "network: the guest receives, ours / QEMU's model",
    ),
];

type Rates = BTreeMap<String, Vec<f64>>;

/// All of these figures.
pub(crate) async fn measure(kit: &Kit, table: &mut Table) -> Outcome {
    let wire = match Wire::new(MEBIBYTES << 20).await {
        Ok(wire) => wire,
        Err(error) => {
            println!("skipped: throughput, which needs root and a tap: {error}");
            return Ok(());
        }
    };
    let directory = tempfile::Builder::new().prefix("kata-io-").tempdir()?;
    let guest = Guest {
        initramfs: initramfs(kit, directory.path())?,
        place: Place::new(&directory.path().join("m"), &kit.kernel(), MEMORY)?,
        wire,
    };
    compare(guest, table).await
}

async fn compare(mut guest: Guest, table: &mut Table) -> Outcome {
    let kvm = Kvm::new();
    let in_process = kvm.probe().await.is_usable();
    println!(
        "throughput of our models {}",
        if in_process {
            "in this process, against QEMU with KVM"
        } else {
            "by vhost-user, against QEMU's own, both emulating"
        }
    );
    let (mut ours, mut theirs) = (Rates::new(), Rates::new());
    for _ in 0..ROUNDS {
        if in_process {
            let config = guest.with_devices().await?;
            add(&mut ours, run(&kvm, config).await?);
        } else {
            add(&mut ours, guest.run_with_vhost_user().await?);
        }
        let config = guest.with_devices().await?;
        add(&mut theirs, run(&Qemu::new(), config).await?);
    }
    for (key, name) in RATES {
        let rate = |rates: &mut Rates| median(rates.remove(key).unwrap_or_default());
        let (ours, theirs) = (rate(&mut ours), rate(&mut theirs));
        let (ours, theirs) = (ours.ok_or(key)?, theirs.ok_or(key)?);
        table.add(name, ours, theirs, Bar::AtLeast(0.9));
    }
    Ok(())
}

fn add(rates: &mut Rates, more: BTreeMap<String, f64>) {
    for (key, rate) in more {
        rates.entry(key).or_default().push(rate);
    }
}

fn median(mut rates: Vec<f64>) -> Option<(f64, String)> {
    rates.sort_unstable_by(f64::total_cmp);
    let rate = *rates.get(rates.len() / 2)?;
    Some((rate, format!("{:.1} MiB/s", rate / f64::from(1 << 20))))
}

/// What all machines have in common.
struct Guest {
    initramfs: PathBuf,
    place: Place,
    wire: Wire,
}

impl Guest {
    fn machine(&mut self) -> Outcome<VmConfig> {
        let mut config = self.place.bare()?;
        config.initramfs = Some(self.initramfs.clone());
        config.command_line.push("quiet").push("--");
        for word in ["io", HOST, GUEST, &MEBIBYTES.to_string()] {
            config.command_line.push(word);
        }
        Ok(config)
    }

    /// With the hypervisor's own devices.
    async fn with_devices(&mut self) -> Outcome<VmConfig> {
        let mut config = self.machine()?;
        config.devices.disks.push(disk(&config.run_dir, MEBIBYTES)?);
        let nic = NicConfig::new(MAC, MTU, self.wire.backend().await?);
        config.devices.nics.push(nic);
        Ok(config)
    }

    /// In QEMU, with ours.
    async fn run_with_vhost_user(&mut self) -> Outcome<BTreeMap<String, f64>> {
        let mut config = self.machine()?;
        let at = |name: &str| config.run_dir.join(name);
        let (blk, net) = (at("blk"), at("net"));
        let disk = disk(&config.run_dir, MEBIBYTES)?;
        let tap = Tap::from_queues(vec![self.wire.tap().await?])?;
        let servers = [
            Server::blk(&BlkConfig::new(disk.path), &blk)?,
            Server::net(NetConfig::new(Link::Tap(tap)), &net)?,
        ];
        let backend = NicBackend::VhostUser {
            socket: net,
            queues: 1,
        };
        config.devices.nics.push(NicConfig::new(MAC, MTU, backend));
        let chardev = format!("socket,id=disk-socket,path={}", blk.display());
        let qemu = Qemu::new()
            .extra_arg("-chardev")
            .extra_arg(chardev)
            .extra_arg("-device")
            .extra_arg("vhost-user-blk,chardev=disk-socket,num-queues=1");
        let rates = run(&qemu, config).await;
        drop(servers);
        rates
    }
}

/// Runs a machine to its end, and reads what it printed.
async fn run(hypervisor: &dyn Hypervisor, config: VmConfig) -> Outcome<BTreeMap<String, f64>> {
    let vm = hypervisor.create(config).await?;
    vm.start().await?;
    let ended = tokio::time::timeout(Duration::from_secs(300), vm.wait()).await;
    let console = String::from_utf8_lossy(&vm.console_tail()).into_owned();
    vm.stop(StopMode::Kill).await?;
    ended.map_err(|_| format!("the guest went on for five minutes:\n{console}"))??;
    let lines = console.lines().filter_map(|line| line.split_once(' '));
    let rates: BTreeMap<_, _> = lines
        .filter(|(name, _)| RATES.iter().any(|(known, _)| known == name))
        .filter_map(|(name, rate)| Some((name.to_owned(), rate.trim().parse().ok()?)))
        .collect();
    if rates.len() < RATES.len() {
        return Err(format!("the guest measured less than it should:\n{console}").into());
    }
    Ok(rates)
}

fn initramfs(kit: &Kit, directory: &Path) -> Outcome<PathBuf> {
    let mut archive = Archive::new();
    let bytes = std::fs::read(&kit.probe)?;
    archive.insert("init", Entry::File { mode: 0o755, bytes });
    let console = Entry::Character {
        mode: 0o600,
        major: 5,
        minor: 1,
    };
    archive.insert("dev/console", console);
    let path = directory.join("initramfs");
    std::fs::write(&path, archive.to_bytes().ok_or("the archive is too large")?)?;
    Ok(path)
}
