//! What a machine does while its devices take their time. On a real KVM, with a
//! processor that is held.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use kata_devices::virtio::{
    Activation, DeviceKind, DeviceQueue, DeviceState, StateError, VirtioDevice,
};
use kvm_ioctls::VmFd;
use vm_memory::GuestAddress;

use super::super::bus::Bus;
use super::super::confine::Filter;
use super::super::devices::{Place, wire};
use super::super::guest::Guest;
use super::super::memory::Memory;
use super::super::settings::Settings;
use super::super::vcpu::{Vcpus, Wiring};
use super::*;
use crate::config::MemorySize;
use crate::console::CONSOLE_TAIL;

const PATIENCE: Duration = Duration::from_secs(30);

/// A device that says what is done to it, and takes its time if it is told to.
struct Slow {
    name: &'static str,
    log: Sender<String>,
    /// What it waits for when it is quiesced or ended.
    go: Option<Receiver<()>>,
    queue: Option<DeviceQueue>,
}

impl Slow {
    fn say(&self, what: &str) {
        let _ = self.log.send(format!("{} {what}", self.name));
    }

    fn no_state() -> StateError {
        let reason = "it is slow, and no more".to_owned();
        StateError::Unavailable { reason }
    }

    fn wait(&self) {
        if let Some(go) = &self.go {
            let _ = go.recv();
        }
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.say("ends");
        self.wait();
    }
}

impl VirtioDevice for Slow {
    fn kind(&self) -> DeviceKind {
        DeviceKind::BLOCK
    }

    fn features(&self) -> u64 {
        1 << 32
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16]
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        self.queue = activation.queues.into_iter().next().map(|(_, queue)| queue);
        Ok(())
    }

    fn quiesce(&mut self, _queue: usize) -> io::Result<Option<DeviceQueue>> {
        self.say("pauses");
        self.wait();
        Ok(self.queue.take())
    }

    fn resume(&mut self, _index: usize, queue: DeviceQueue) -> io::Result<()> {
        self.say("resumes");
        self.queue = Some(queue);
        Ok(())
    }

    fn reset(&mut self) {}

    fn save(&mut self) -> std::result::Result<DeviceState, StateError> {
        Err(Self::no_state())
    }

    fn restore(&mut self, _state: &DeviceState) -> std::result::Result<(), StateError> {
        Err(Self::no_state())
    }
}

/// A machine with a quick device and a slow one, both in use.
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
        let mut bus = Bus::default();
        let transports = [("quick", None), ("slow", Some(waits))]
            .into_iter()
            .zip([(0xd000_0000, 5), (0xd000_1000, 6)])
            .map(|((name, go), (address, line))| {
                let log = log.clone();
                let device = Box::new(Slow {
                    name,
                    log,
                    go,
                    queue: None,
                });
                let place = Place { address, line };
                let memory = guest.memory().guest();
                let transport = wire(device, place, guest.vm(), memory, &mut bus).unwrap();
                use_it(&transport);
                (Arc::from(name), transport)
            })
            .collect();
        let vm = Self::machine(guest, transports, bus);
        let (log, vm) = (said, Arc::new(vm));
        Some(Self { vm, log, go })
    }

    fn machine(guest: Guest, transports: Vec<Named<Arc<MmioTransport>>>, bus: Bus) -> KvmVm {
        let vcpu = VmFd::create_vcpu(guest.vm(), 0).unwrap();
        let wiring = Wiring {
            control: Arc::new(Control::new(1)),
            bus: Arc::new(bus),
            console: Arc::new(Tail::new(CONSOLE_TAIL)),
            filter: Arc::new(Filter::vcpu().unwrap()),
            id: "slow".into(),
        };
        let machine = Machine {
            vcpus: Vcpus::start(vec![(vcpu, None)], &wiring).unwrap(),
            wiring: wiring.clone(),
            transports,
            guest: Arc::new(guest),
        };
        KvmVm {
            vsock: None,
            control: wiring.control,
            console: wiring.console,
            timeline: Timeline::default(),
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

/// Does what a driver does to use a device: the numbers are those of virtio-mmio.
fn use_it(transport: &MmioTransport) {
    let write = |register: u64, value: u32| transport.write(register, &value.to_le_bytes());
    for status in [0, 1, 3] {
        write(0x70, status);
    }
    write(0x24, 1);
    write(0x20, 1);
    write(0x70, 11);
    write(0x30, 0);
    write(0x38, 16);
    for (register, address) in [(0x80, 0x1000), (0x90, 0x2000), (0xa0, 0x3000)] {
        write(register, address);
    }
    write(0x44, 1);
    write(0x70, 15);
    let mut status = [0; 4];
    transport.read(0x70, &mut status);
    assert_eq!(u32::from_le_bytes(status), 15);
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
