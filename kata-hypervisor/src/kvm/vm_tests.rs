//! What a machine does while its devices take their time. On a real KVM, with a
//! processor that is held.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use vm_memory::GuestAddress;

use super::super::bus::Bus;
use super::super::confine::{Duties, Filter};
use super::super::guest::Guest;
use super::super::memory::Memory;
use super::super::settings::Settings;
use super::super::vcpu::{Vcpus, Wiring};
use super::*;
use crate::config::MemorySize;
use crate::console::CONSOLE_TAIL;

const PATIENCE: Duration = Duration::from_secs(30);

/// A device that says what is done to it, and takes its time if it is told to.
#[derive(Debug)]
struct Slow {
    name: &'static str,
    log: Sender<String>,
    /// What it waits for when it is paused or ended.
    go: Option<std::sync::Mutex<Receiver<()>>>,
}

impl Slow {
    fn say(&self, what: &str) {
        let _ = self.log.send(format!("{} {what}", self.name));
    }

    fn wait(&self) {
        if let Some(go) = &self.go {
            let _ = go.lock().unwrap().recv();
        }
    }
}

impl Transport for Slow {
    fn pause(&self) -> io::Result<()> {
        self.say("pauses");
        self.wait();
        Ok(())
    }

    fn resume(&self) -> io::Result<()> {
        self.say("resumes");
        Ok(())
    }

    fn end(&self) {
        self.say("ends");
        self.wait();
    }
}

/// A machine with a quick device and a slow one.
struct Bench {
    vm: Arc<KvmVm>,
    log: Receiver<String>,
    go: Sender<()>,
}

impl Bench {
    /// `None`, aloud, without a KVM.
    fn new() -> Option<Self> {
        let device = crate::host_kvm::open(crate::host_kvm::DEVICE.as_ref())
            .inspect_err(|error| eprintln!("skipped: {}: {error}", crate::host_kvm::DEVICE))
            .ok()?;
        let vm = device.create_vm().unwrap();
        let size = MemorySize::mib(2);
        let ranges = [(GuestAddress(0), 2 << 20)];
        let memory = Memory::new(size, &ranges, &Settings::default()).unwrap();
        let guest = Guest::new(vm, memory).unwrap();
        super::super::arch::make_chips(guest.vm()).unwrap();

        let (log, said) = channel();
        let (go, waits) = channel();
        let waits = Some(std::sync::Mutex::new(waits));
        let transports = [("quick", None), ("slow", waits)].map(|(name, go)| {
            let log = log.clone();
            let device: Arc<dyn Transport> = Arc::new(Slow { name, log, go });
            (Arc::from(name), device)
        });
        let vm = Self::machine(guest, transports.to_vec());
        let (log, vm) = (said, Arc::new(vm));
        Some(Self { vm, log, go })
    }

    fn machine(guest: Guest, transports: Vec<Named<Arc<dyn Transport>>>) -> KvmVm {
        let vcpu = guest.vm().create_vcpu(0).unwrap();
        let wiring = Wiring {
            control: Arc::new(Control::new(1)),
            bus: Arc::new(Bus::default()),
            console: Arc::new(Tail::new(CONSOLE_TAIL)),
            filter: Arc::new(Filter::vcpu(Duties::default()).unwrap()),
            id: "slow".into(),
        };
        let machine = Machine {
            vcpus: Vcpus::start(vec![(vcpu, None)], &wiring).unwrap(),
            wiring: wiring.clone(),
            transports,
            balloon: None,
            guest: Arc::new(guest),
        };
        KvmVm {
            vsock: None,
            control: wiring.control,
            console: wiring.console,
            timeline: Timeline::default(),
            balloon: None,
            // Its processor is held all the same.
            state: Arc::new(Mutex::new(State::Running)),
            kept: machine.keep().unwrap(),
        }
    }

    fn hears(&self, expected: &str) {
        let said = tokio::task::block_in_place(|| self.log.recv_timeout(PATIENCE));
        assert_eq!(said.as_deref(), Ok(expected));
    }

    fn hears_nothing(&self, time: Duration) {
        let said = tokio::task::block_in_place(|| self.log.recv_timeout(time));
        assert_eq!(said, Err(RecvTimeoutError::Timeout));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_nobody_waits_for_ends_before_a_resume_begins() {
    let Some(bench) = Bench::new() else {
        return;
    };
    let vm = Arc::clone(&bench.vm);
    let pausing = tokio::spawn(async move { Pause::pause(&*vm).await });
    bench.hears("quick pauses");
    bench.hears("slow pauses");
    pausing.abort();
    assert!(pausing.await.unwrap_err().is_cancelled());
    let vm = Arc::clone(&bench.vm);
    let resuming = tokio::spawn(async move { Pause::resume(&*vm).await });
    // Whoever went first would leave the other half-way.
    bench.hears_nothing(Duration::from_millis(500));
    bench.go.send(()).unwrap();
    bench.hears("quick resumes");
    bench.hears("slow resumes");
    resuming.await.unwrap().unwrap();
    drop(bench.go);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_answers_when_all_devices_have_ended() {
    let Some(bench) = Bench::new() else {
        return;
    };
    let vm = Arc::clone(&bench.vm);
    let mut stopping = tokio::spawn(async move { vm.stop(StopMode::Kill).await });
    bench.hears("quick ends");
    bench.hears("slow ends");
    let early = timeout(Duration::from_millis(500), &mut stopping).await;
    assert!(
        early.is_err(),
        "a device works, and the machine has stopped"
    );
    assert_eq!(bench.vm.kept.ending().as_deref(), Some("slow"));
    let error = bench.vm.device_late().to_string();
    assert!(error.contains("the slow device still works"), "{error}");
    bench.go.send(()).unwrap();
    assert_eq!(stopping.await.unwrap().unwrap(), VmExit::Killed);
    assert_eq!(bench.vm.kept.ending(), None);
}
