//! Ways to enter a stock kernel, and ways in which it learns of its machine. It takes
//! a KVM that runs stock kernels; `make test-nested` provides one.
#![cfg(all(feature = "kvm", feature = "conformance", target_arch = "x86_64"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "payload/stock.rs"]
mod stock;

use std::path::{Path, PathBuf};
use std::time::Duration;

use kata_devices::vsock::VsockConfig;
use kata_hypervisor::conformance::{self, Subject};
use kata_hypervisor::kvm::{Kvm, PageSize, Transports};
use kata_hypervisor::{Devices, Hypervisor, MachineSize, MemorySize, StopMode, VmConfig, VmExit};
use tempfile::TempDir;

/// Longer than a distribution's kernel takes on an emulated processor.
const PATIENCE: Duration = Duration::from_secs(300);

/// Makes the kernel one that finds no devices by its command line, as those of
/// distributions: it has the same driver, whose parent has another name.
fn without_announced_devices(kernel: &mut [u8]) {
    let (name, other) = (b"virtio-mmio-cmdline", b"virtio-mmio-another");
    let places: Vec<usize> = memchr::memmem::find_iter(kernel, name).collect();
    assert!(!places.is_empty(), "this kernel finds announced devices");
    for at in places {
        kernel[at..at + other.len()].copy_from_slice(other);
    }
}

/// Takes the note away by which the kernel says that it can be entered by PVH.
fn without_pvh(kernel: &mut [u8]) {
    const NOTE: u32 = 4;
    let table = u64::from_le_bytes(kernel[32..40].try_into().unwrap());
    let count = usize::from(u16::from_le_bytes([kernel[56], kernel[57]]));
    let headers = (usize::try_from(table).unwrap()..).step_by(56);
    for at in headers.take(count) {
        if kernel[at..at + 4] == NOTE.to_le_bytes() {
            kernel[at..at + 4].fill(0);
        }
    }
}

/// The subject of a case; `None`, aloud, where there is none.
fn subject(kvm: Kvm, change: impl Fn(&mut [u8])) -> Option<(Subject, TempDir)> {
    let directory = tempfile::tempdir().unwrap();
    match stock::subject_with(kvm, directory.path(), change) {
        Ok(subject) => Some((subject, directory)),
        Err(reason) => {
            eprintln!("skipped: {reason}");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_elf_file_without_pvh_is_entered_in_64_bit_mode() {
    if let Some((subject, _kernel)) = subject(Kvm::new(), without_pvh) {
        conformance::a_machine_boots_and_is_accounted_for(&subject).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_finds_registers_by_acpi_and_switches_off() {
    if let Some((subject, _kernel)) = subject(Kvm::new(), without_announced_devices) {
        conformance::a_guest_that_switches_off_is_told_apart(&subject.vcpus(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_finds_functions_by_acpi() {
    let kvm = Kvm::new().transports(Transports::Pci);
    if let Some((subject, _kernel)) = subject(kvm, without_announced_devices) {
        let subject = subject.vcpus(2);
        conformance::a_disk_is_read_and_written_by_the_guest(&subject).await;
        conformance::a_panic_is_reported_with_its_message(&subject).await;
    }
}

/// Pages of 2 MiB that the host has to give.
fn free_huge_pages() -> u64 {
    let pool = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    let free = std::fs::read_to_string(pool).unwrap_or_default();
    free.trim().parse().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_has_huge_pages() {
    let kvm = Kvm::new().page_size(PageSize::Huge2M);
    let Some((subject, _kernel)) = subject(kvm, |_| {}) else {
        return;
    };
    // The guest has 128 MiB.
    if free_huge_pages() < 64 {
        return eprintln!("skipped: the host has fewer than 64 huge pages to give");
    }
    conformance::a_machine_boots_and_is_accounted_for(&subject).await;
}

/// A kernel as distributions ship it, and the initramfs of an image with it.
fn distribution() -> Option<(PathBuf, PathBuf)> {
    let image = PathBuf::from(std::env::var_os("KATA_DISTRIBUTION_IMAGE")?);
    let packages = Path::new(&std::env::var_os("KATA_CACHE")?).join("packages");
    let packages = std::fs::read_dir(packages).ok()?;
    let boots = packages.filter_map(|package| Some(package.ok()?.path().join("boot")));
    let files = boots.filter_map(|boot| std::fs::read_dir(boot).ok());
    let mut files = files.flatten().filter_map(|file| Some(file.ok()?.path()));
    let kernel = files.find(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("vmlinuz-") && name.ends_with("-amd64")
    });
    Some((kernel?, image.join("initramfs.cpio")))
}

/// A compressed kernel is told of everything by ACPI, and its modules find the
/// devices: the agent that runs in it announces itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_distributions_bzimage_unpacks_itself_and_finds_its_devices() {
    /// The host's port to which the agent connects.
    const AGENT: u32 = 1024;
    if let Some(obstacle) = stock::obstacle() {
        return eprintln!("skipped: {obstacle}");
    }
    let Some((kernel, initramfs)) = distribution() else {
        return eprintln!("skipped: KATA_DISTRIBUTION_IMAGE and KATA_CACHE name no kernel");
    };
    for transports in [Transports::Mmio, Transports::Pci] {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("v");
        let announced = directory.path().join(format!("v_{AGENT}"));
        let listener = tokio::net::UnixListener::bind(announced).unwrap();
        let mut devices = Devices::default();
        devices.rng = true;
        devices.vsock = Some(VsockConfig {
            guest_cid: 3,
            socket,
        });
        let memory = MemorySize::mib(256);
        let config = VmConfig {
            id: "bzimage".to_owned(),
            run_dir: directory.path().to_owned(),
            size: MachineSize {
                vcpus: 1,
                max_vcpus: 1,
                memory,
                max_memory: memory,
            },
            kernel: kernel.clone(),
            initramfs: Some(initramfs.clone()),
            command_line: ["quiet", "mitigations=off"].into_iter().collect(),
            devices,
            cgroup: Vec::new(),
            start_deadline: PATIENCE,
        };
        let kvm = Kvm::new().transports(transports);
        let vm = kvm.create(config).await.unwrap();
        vm.start().await.unwrap();
        let said = || String::from_utf8_lossy(&vm.console_tail()).into_owned();
        tokio::select! {
            accepted = tokio::time::timeout(PATIENCE, listener.accept()) => {
                accepted.unwrap_or_else(|_| panic!("no agent: {}", said())).unwrap();
            }
            exit = vm.wait() => panic!("{exit:?}: {}", said()),
        }
        assert_eq!(vm.stop(StopMode::Kill).await.unwrap(), VmExit::Killed);
    }
}
