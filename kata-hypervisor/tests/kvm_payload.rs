//! Guests of our own under the host's KVM, whatever it is: they do without what
//! an emulator of ring 0 lacks.
#![cfg(all(feature = "kvm", target_arch = "x86_64"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "payload/bench.rs"]
mod bench;
mod payload;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bench::{Bench, SOON};
use kata_hypervisor::kvm::{Guests, Kvm, PageSize};
use kata_hypervisor::{DiskConfig, Error, Hypervisor, MemorySize, StopMode, VmExit};
use payload::{DATA, Payload, SERIAL};

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

/// On which processors of the host each processor's thread may run.
fn places_of_processors() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let paths = tasks.filter_map(|task| Some(task.ok()?.path()));
    let ours = paths.filter(|path| {
        fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("kata-vcpu"))
    });
    let statuses = ours.filter_map(|path| fs::read_to_string(path.join("status")).ok());
    let lists = statuses.filter_map(|status| {
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.map(|list| list.trim().to_owned())
    });
    lists.collect()
}

#[tokio::test]
async fn processors_stay_where_they_are_bound() {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return eprintln!("skipped: a host with one processor binds all to it anyway");
    }
    let Some(mut bench) = Bench::with(|kvm| kvm.pin_vcpus([1])).await else {
        return;
    };
    bench.vcpus = 2;
    let _vm = bench.start(&Payload::default().halt()).await;
    // Other tests' processors are bound to none.
    let places = places_of_processors();
    let bound = places.iter().filter(|place| *place == "1");
    assert_eq!(bound.count(), 2, "{places:?}");
    let nowhere = Bench::with(|kvm| kvm.pin_vcpus([1 << 20])).await.unwrap();
    let config = nowhere.config(&Payload::default().halt());
    assert!(matches!(
        nowhere.kvm.create(config).await,
        Err(Error::Host { .. })
    ));
}

#[tokio::test]
async fn memory_is_there_before_the_start_when_it_was_asked_for() {
    for (prefault, all) in [(false, false), (true, true)] {
        let Some(bench) = Bench::with(|kvm| kvm.prefault(prefault)).await else {
            return;
        };
        let vm = bench.create(&Payload::default().halt()).await;
        let there = vm.usage().await.unwrap().guest_memory;
        assert_eq!(there == 32 << 20, all, "{there}");
    }
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
        fail_at_every_step(&bench).await;
    }
    gone(before).await;
}

/// Machines that are given up half-made: at their memory, at a device, at what is
/// loaded, at a processor that has a thread already.
async fn fail_at_every_step(bench: &Bench) {
    let kvm = || Kvm::new().guests(Guests::Any);
    let config = || bench.config(&Payload::default().halt());
    let mut huge = config();
    // More than any pool in these parts, and no multiple of a page.
    (huge.size.memory, huge.size.max_memory) = (MemorySize::mib(33), MemorySize::mib(33));
    let huge_pages = kvm().page_size(PageSize::Huge1G);
    assert!(huge_pages.create(huge).await.is_err());

    let path = bench.path().join("had");
    fs::write(&path, [0; 512]).unwrap();
    let disk = DiskConfig {
        id: "had".to_owned(),
        path,
        read_only: false,
    };
    let mut first = config();
    first.devices.disks.push(disk.clone());
    let holder = kvm().create(first).await.unwrap();
    let mut second = config();
    second.devices.disks.push(disk);
    let error = kvm().create(second).await.unwrap_err();
    assert!(
        matches!(error, Error::Device { device: "disk", .. }),
        "{error}"
    );
    holder.stop(StopMode::Kill).await.unwrap();

    let mut large = config();
    let initramfs = bench.path().join("large");
    let file = fs::File::create(&initramfs).unwrap();
    file.set_len(64 << 20).unwrap();
    large.initramfs = Some(initramfs);
    assert!(kvm().create(large).await.is_err());

    let mut several = config();
    (several.size.vcpus, several.size.max_vcpus) = (2, 2);
    let nowhere = kvm().pin_vcpus([0, 1 << 20]);
    assert!(nowhere.create(several).await.is_err());
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
