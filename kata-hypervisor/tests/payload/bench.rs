//! Machines of tests that run payloads.
#![allow(dead_code, reason = "each user takes a part of it")]
#![allow(
    clippy::allow_attributes,
    reason = "which part is unused differs by user"
)]

use std::path::Path;
use std::time::Duration;

use kata_hypervisor::kvm::{Guests, Kvm};
use kata_hypervisor::{
    Devices, Hypervisor, KernelCommandLine, MachineSize, MemorySize, Vm, VmConfig, VmExit,
};

use crate::payload::Payload;

/// Longer than anything takes.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// A KVM for guests of our own; `None`, aloud, where there is none.
pub(crate) async fn kvm(settings: impl FnOnce(Kvm) -> Kvm) -> Option<Kvm> {
    let kvm = settings(Kvm::new().guests(Guests::Any));
    let probe = kvm.probe().await;
    if probe.is_usable() {
        return Some(kvm);
    }
    let findings: Vec<_> = probe.findings.iter().map(ToString::to_string).collect();
    eprintln!("skipped: {}", findings.join("; "));
    None
}

/// A directory for one machine, and what runs in it.
pub(crate) struct Bench {
    pub(crate) kvm: Kvm,
    directory: tempfile::TempDir,
    pub(crate) devices: Devices,
    pub(crate) vcpus: u32,
}

impl Bench {
    pub(crate) async fn new() -> Option<Self> {
        Self::with(|kvm| kvm).await
    }

    /// With settings.
    pub(crate) async fn with(settings: impl FnOnce(Kvm) -> Kvm) -> Option<Self> {
        Some(Self {
            kvm: kvm(settings).await?,
            directory: tempfile::tempdir().unwrap(),
            devices: Devices::default(),
            vcpus: 1,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What would be a machine that runs it.
    pub(crate) fn config(&self, payload: &Payload) -> VmConfig {
        let memory = MemorySize::mib(32);
        VmConfig {
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
        }
    }

    pub(crate) async fn create(&self, payload: &Payload) -> Box<dyn Vm> {
        let config = self.config(payload);
        self.kvm.create(config).await.unwrap()
    }

    pub(crate) async fn start(&self, payload: &Payload) -> Box<dyn Vm> {
        let vm = self.create(payload).await;
        vm.start().await.unwrap();
        vm
    }

    /// Runs to the end that the guest chooses; what it said, and how it ended.
    pub(crate) async fn run(&self, payload: &Payload) -> (Vec<u8>, VmExit) {
        let vm = self.start(payload).await;
        let exit = ending(&*vm).await;
        (vm.console_tail(), exit)
    }
}

/// How it ends, and when it does not, what it said.
pub(crate) async fn ending(vm: &dyn Vm) -> VmExit {
    let waited = tokio::time::timeout(SOON, vm.wait()).await;
    waited
        .unwrap_or_else(|_| panic!("it goes on, having said {:?}", vm.console_tail()))
        .unwrap()
}

/// What it said, once that is so many bytes.
pub(crate) async fn said(vm: &dyn Vm, bytes: usize) -> Vec<u8> {
    let until = tokio::time::Instant::now() + SOON;
    loop {
        let said = vm.console_tail();
        if said.len() >= bytes {
            return said;
        }
        assert!(tokio::time::Instant::now() < until, "it said {said:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
