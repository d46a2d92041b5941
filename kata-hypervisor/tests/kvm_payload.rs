//! Guests of our own under the host's KVM, whatever it is: they do without what
//! an emulator of ring 0 lacks.
#![cfg(all(feature = "kvm", target_arch = "x86_64"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod payload;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use kata_hypervisor::kvm::{Guests, Kvm};
use kata_hypervisor::{
    Devices, DiskConfig, Error, Hypervisor, KernelCommandLine, MachineSize, MemorySize, StopMode,
    Vm, VmConfig, VmExit,
};
use payload::queue::{Device, Ring, WRITE};
use payload::{DATA, INTERRUPTS, Payload, SERIAL};

const SOON: Duration = Duration::from_secs(60);
/// Where the first virtio device is, and its line.
const FIRST: Device = Device(0xd000_0000);
const FIRST_LINE: u32 = 5;

/// A KVM for guests of our own; `None`, aloud, where there is none.
async fn kvm() -> Option<Kvm> {
    let kvm = Kvm::new().guests(Guests::Any);
    let probe = kvm.probe().await;
    if probe.is_usable() {
        return Some(kvm);
    }
    let findings: Vec<_> = probe.findings.iter().map(ToString::to_string).collect();
    eprintln!("skipped: {}", findings.join("; "));
    None
}

/// A directory for one machine, and what runs in it.
struct Bench {
    kvm: Kvm,
    directory: tempfile::TempDir,
    devices: Devices,
    vcpus: u32,
}

impl Bench {
    async fn new() -> Option<Self> {
        Some(Self {
            kvm: kvm().await?,
            directory: tempfile::tempdir().unwrap(),
            devices: Devices::default(),
            vcpus: 1,
        })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    async fn create(&self, payload: &Payload) -> Box<dyn Vm> {
        let memory = MemorySize::mib(32);
        let config = VmConfig {
            id: "payload".to_owned(),
            run_dir: self.path().to_owned(),
            size: MachineSize {
                vcpus: self.vcpus,
                max_vcpus: self.vcpus,
                memory,
                max_memory: memory,
            },
            kernel: payload.build(self.path()),
            initramfs: None,
            command_line: KernelCommandLine::new(),
            devices: self.devices.clone(),
            cgroup: Vec::new(),
            start_deadline: SOON,
        };
        self.kvm.create(config).await.unwrap()
    }

    async fn start(&self, payload: &Payload) -> Box<dyn Vm> {
        let vm = self.create(payload).await;
        vm.start().await.unwrap();
        vm
    }

    /// Runs to the end that the guest chooses; what it said, and how it ended.
    async fn run(&self, payload: &Payload) -> (Vec<u8>, VmExit) {
        let vm = self.start(payload).await;
        let exit = ending(&*vm).await;
        (vm.console_tail(), exit)
    }
}

async fn ending(vm: &dyn Vm) -> VmExit {
    let waited = tokio::time::timeout(SOON, vm.wait()).await;
    waited
        .unwrap_or_else(|_| panic!("it goes on, having said {:?}", vm.console_tail()))
        .unwrap()
}

#[tokio::test]
async fn a_guest_speaks_and_resets_its_machine() {
    let Some(bench) = Bench::new().await else {
        return;
    };
    let payload = Payload::default()
        .data(DATA, *b"hello")
        .show(DATA, 5)
        .reset();
    let (said, exit) = bench.run(&payload).await;
    assert_eq!((said.as_slice(), exit), (&b"hello"[..], VmExit::Reset));
}

#[tokio::test]
async fn a_guest_switches_its_machine_off_or_panics() {
    let Some(bench) = Bench::new().await else {
        return;
    };
    let off = Payload::default().out(0x600, 5 << 2 | 1 << 5);
    assert_eq!(bench.run(&off).await.1, VmExit::PowerOff);
    let panic = Payload::default().out(0x505, 1);
    assert_eq!(bench.run(&panic).await.1, VmExit::Panic);
    let message = b"Kernel panic - not syncing: of our own";
    let length = u32::try_from(message.len()).unwrap();
    let told = Payload::default()
        .data(DATA, *message)
        .show(DATA, length)
        .reset();
    assert_eq!(bench.run(&told).await.1, VmExit::Panic);
}

#[tokio::test]
async fn a_fault_that_nobody_handles_ends_the_machine_and_not_us() {
    let Some(bench) = Bench::new().await else {
        return;
    };
    let (_, exit) = bench.run(&Payload::default().fault()).await;
    assert!(
        matches!(exit, VmExit::Reset | VmExit::Crashed { .. }),
        "{exit:?}"
    );
}

#[tokio::test]
async fn an_instruction_that_kvm_cannot_emulate_is_told_by_its_bytes() {
    if !Path::new("/sys/module/kvm_pvm").exists() {
        return eprintln!("skipped: this host's KVM emulates no ring 0");
    }
    let Some(bench) = Bench::new().await else {
        return;
    };
    let (_, exit) = bench.run(&Payload::default().popcnt().reset()).await;
    let VmExit::Crashed { reason } = exit else {
        panic!("{exit:?}")
    };
    assert!(reason.contains("f3 0f b8 c0"), "{reason}");
}

#[tokio::test]
async fn ports_and_addresses_that_nobody_has_read_as_ones() {
    let Some(bench) = Bench::new().await else {
        return;
    };
    let payload = Payload::default()
        .input(0xcf8)
        .show_word(0xdfff_0000)
        .out(0x80, 1)
        .input(SERIAL + 5)
        .reset();
    let (said, _) = bench.run(&payload).await;
    assert_eq!(said, [0xff, 0xff, 0xff, 0xff, 0xff, 0x60]);
}

#[tokio::test]
async fn entropy_comes_through_a_queue_and_its_interrupt_too() {
    let Some(mut bench) = Bench::new().await else {
        return;
    };
    bench.devices.rng = true;
    let (ring, buffer) = (
        Ring {
            queue: 0,
            page: DATA,
        },
        DATA + 0x1000,
    );
    let payload = Payload::default().data(buffer, [0; 64]);
    let payload = ring.with_chains(payload, &[&[(buffer, 64, WRITE)]]);
    let payload = payload.data(INTERRUPTS, [0; 4]).interrupts_from(FIRST_LINE);
    let payload = FIRST.start(payload, &[ring]);
    let payload = FIRST
        .kick(payload, ring)
        .wait_for(INTERRUPTS, 1)
        .wait_for(ring.used_index(), 1)
        .show(buffer, 64)
        .reset();
    let (said, exit) = bench.run(&payload).await;
    assert_eq!((said.len(), exit), (64, VmExit::Reset));
    assert!(
        said.iter().filter(|&&byte| byte == 0).count() < 16,
        "{said:?}"
    );
}

#[tokio::test]
async fn a_disk_is_read_and_written() {
    let Some(mut bench) = Bench::new().await else {
        return;
    };
    let path = bench.path().join("disk");
    let content: Vec<u8> = (b'a'..=b'h').flat_map(|letter| [letter; 512]).collect();
    fs::write(&path, &content).unwrap();
    bench.devices.disks.push(DiskConfig {
        id: "d".to_owned(),
        path: path.clone(),
        read_only: false,
    });
    let (ring, base) = (
        Ring {
            queue: 0,
            page: DATA,
        },
        DATA + 0x1000,
    );
    let request =
        |kind: u32, sector: u64| [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
    let (read, write, into, from, status) =
        (base, base + 0x100, base + 0x200, base + 0x400, base + 0x600);
    let payload = Payload::default()
        .data(read, request(0, 1))
        .data(write, request(1, 2))
        .data(into, [0; 512])
        .data(from, [b'X'; 512])
        .data(status, [0xff; 2]);
    let payload = ring.with_chains(
        payload,
        &[
            &[(read, 16, 0), (into, 512, WRITE), (status, 1, WRITE)],
            &[(write, 16, 0), (from, 512, 0), (status + 1, 1, WRITE)],
        ],
    );
    let payload = FIRST.start(payload, &[ring]);
    let payload = FIRST
        .kick(payload, ring)
        .wait_for(ring.used_index(), 2)
        .show(status, 2)
        .show(into, 512)
        .reset();
    let (said, _) = bench.run(&payload).await;
    assert_eq!(said[..2], [0, 0], "both went well");
    assert_eq!(said[2..], [b'b'; 512]);
    let written = fs::read(path).unwrap();
    assert_eq!(written[1024..1536], [b'X'; 512]);
    assert_eq!(
        (&written[..1024], &written[1536..]),
        (&content[..1024], &content[1536..])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_guest_says_nothing_and_goes_on_where_it_was() {
    let Some(mut bench) = Bench::new().await else {
        return;
    };
    bench.vcpus = 2;
    let vm = bench.start(&Payload::default().show_forever()).await;
    let pause = vm.pause().unwrap();
    let speaks = async || {
        let (length, deadline) = (vm.console_tail().len(), Instant::now() + SOON);
        while vm.console_tail().len() == length && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        vm.console_tail().len() > length
    };
    assert!(speaks().await);
    for _ in 0..3 {
        pause.pause().await.unwrap();
        let before = vm.console_tail().len();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(vm.console_tail().len(), before, "it stands still");
        pause.resume().await.unwrap();
        assert!(speaks().await, "it goes on");
    }
    pause.pause().await.unwrap();
    assert_eq!(vm.stop(StopMode::Kill).await.unwrap(), VmExit::Killed);
    assert!(matches!(pause.resume().await, Err(Error::Ended { .. })));
}

#[tokio::test]
async fn a_guest_that_halts_is_killed() {
    let Some(bench) = Bench::new().await else {
        return;
    };
    let vm = bench.start(&Payload::default().halt()).await;
    let usage = vm.usage().await.unwrap();
    assert!(
        usage.guest_memory > 0 && usage.guest_memory < 4 << 20,
        "{usage:?}"
    );
    assert!(usage.overhead > 0 && usage.overhead < 1 << 20, "{usage:?}");
    let grace = StopMode::Await(Duration::from_millis(20));
    assert_eq!(vm.stop(grace).await.unwrap(), VmExit::Killed);
    assert!(vm.usage().await.is_err());
}

/// Threads of machines, and descriptors.
fn census() -> (Vec<String>, usize) {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    let ours = names.filter(|name| name.starts_with("kata-"));
    (
        ours.collect(),
        fs::read_dir("/proc/self/fd").unwrap().count(),
    )
}

/// Machines that are dropped, killed or never started leave neither threads nor
/// descriptors. Other tests of this file have theirs, so this one runs alone, in
/// a process of its own.
#[test]
fn machines_leave_neither_threads_nor_descriptors() {
    const ALONE: &str = "KATA_TEST_CENSUS";
    if std::env::var_os(ALONE).is_none() {
        let own = std::env::current_exe().unwrap();
        let name = "machines_leave_neither_threads_nor_descriptors";
        let status = std::process::Command::new(own)
            .args([name, "--exact", "--nocapture"])
            .env(ALONE, "1")
            .status();
        return assert!(status.unwrap().success());
    }
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    runtime.block_on(leave_nothing());
}

async fn leave_nothing() {
    let Some(mut bench) = Bench::new().await else {
        return;
    };
    bench.devices.rng = true;
    drop(bench.start(&Payload::default().halt()).await);
    gone(usize::MAX).await;
    let before = census().1;
    for _ in 0..8 {
        drop(bench.create(&Payload::default().halt()).await);
        drop(bench.start(&Payload::default().halt()).await);
        let killed = bench.start(&Payload::default().halt()).await;
        killed.stop(StopMode::Kill).await.unwrap();
        bench.run(&Payload::default().reset()).await;
    }
    gone(before).await;
}

/// Waits until no machine has threads, and descriptors are no more than that.
async fn gone(descriptors: usize) {
    let deadline = Instant::now() + SOON;
    loop {
        let (threads, count) = census();
        if threads.is_empty() && count <= descriptors {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{threads:?}, {count} of {descriptors}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
