//! The threads of a machine's processors.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use kvm_ioctls::VcpuFd;
use rustix::thread::{CpuSet, gettid, sched_setaffinity};

use super::control::{Control, Thread, Turn};
use super::exit::{self, Step};
use super::kick;
use crate::console::Tail;
use crate::error::{Error, Result};
use crate::kvm::arch;
use crate::kvm::bus::Bus;
use crate::kvm::confine::Filter;
use crate::kvm::ending::GuestEvent;
use crate::vm::VmExit;

/// What a kernel writes when it panics, on every architecture.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// What a processor needs beside itself.
#[derive(Clone, Debug)]
pub(in crate::kvm) struct Wiring {
    /// Orders.
    pub(in crate::kvm) control: Arc<Control>,
    /// What its exits reach.
    pub(in crate::kvm) bus: Arc<Bus>,
    /// What the guest said.
    pub(in crate::kvm) console: Arc<Tail>,
    /// What its thread may ask of the host.
    pub(in crate::kvm) filter: Arc<Filter>,
    /// The machine's name, for logs.
    pub(in crate::kvm) id: Arc<str>,
}

/// The threads. Dropping this ends them, and waits.
#[derive(Debug)]
pub(in crate::kvm) struct Vcpus {
    control: Arc<Control>,
    threads: Vec<JoinHandle<()>>,
}

impl Vcpus {
    /// Starts a held thread for each processor, with the host's processor to
    /// which it is bound.
    pub(in crate::kvm) fn start(
        vcpus: Vec<(VcpuFd, Option<usize>)>,
        wiring: &Wiring,
    ) -> Result<Self> {
        let count = vcpus.len();
        let mut started = Self {
            control: Arc::clone(&wiring.control),
            threads: Vec::with_capacity(count),
        };
        let (ready, reports) = mpsc::channel();
        for (index, (vcpu, pin)) in vcpus.into_iter().enumerate() {
            let processor = Processor {
                index,
                vcpu,
                wiring: wiring.clone(),
            };
            let ready = ready.clone();
            let thread = std::thread::Builder::new()
                .name(format!("kata-vcpu{index}"))
                .spawn(move || processor.live(pin, &ready))
                .map_err(host(format!("start the thread of processor {index}")))?;
            started.threads.push(thread);
        }
        drop(ready);
        for _ in 0..count {
            let report = reports.recv();
            let report = report.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
            report.map_err(host("prepare the thread of a processor".to_owned()))?;
        }
        Ok(started)
    }
}

impl Vcpus {
    /// Waits until all have left.
    pub(in crate::kvm) fn join(mut self) {
        self.join_all();
    }

    fn join_all(&mut self) {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("the thread of a processor panicked");
            }
        }
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.control.end(VmExit::Killed);
        self.join_all();
    }
}

fn host(operation: String) -> impl FnOnce(io::Error) -> Error {
    |source| Error::Host { operation, source }
}

/// One processor, on its thread.
struct Processor {
    index: usize,
    vcpu: VcpuFd,
    wiring: Wiring,
}

/// Takes the thread off the list, however it ends.
struct Leaving<'a>(&'a Control, usize);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}

impl Processor {
    fn live(mut self, pin: Option<usize>, ready: &mpsc::Sender<io::Result<()>>) {
        let control = Arc::clone(&self.wiring.control);
        let _leaving = Leaving(&control, self.index);
        let prepared = self.prepare(pin);
        let failed = prepared.is_err();
        let _ = ready.send(prepared);
        if !failed {
            self.work();
        }
    }

    fn prepare(&self, pin: Option<usize>) -> io::Result<()> {
        kick::arm(&self.vcpu)?;
        let thread = Thread {
            id: gettid(),
            stack: (&raw const pin).addr(),
        };
        self.wiring.control.enter(self.index, thread);
        if let Some(host_cpu) = pin {
            bind(host_cpu)?;
        }
        self.wiring.filter.apply()
    }

    fn work(&mut self) {
        let mut stood = 0;
        while let Turn::Run { stood: total } = self.wiring.control.turn() {
            if total != stood {
                arch::stand_still(&self.vcpu, total.wrapping_sub(stood));
                stood = total;
            }
            if let Some(exit) = self.run() {
                log::debug!(vm_id = &*self.wiring.id, vcpu = self.index, exit:? = exit; "a processor ends its machine");
                self.wiring.control.end(exit);
            }
        }
    }

    /// Runs until there may be orders, or the machine is to end.
    fn run(&mut self) -> Option<VmExit> {
        loop {
            match exit::run(&mut self.vcpu, &self.wiring.bus) {
                Step::Again => {}
                Step::Orders => {
                    kick::drain();
                    return None;
                }
                Step::Guest(event) => return Some(self.judge(event)),
                Step::Broken(why) => return Some(VmExit::Crashed { reason: why }),
            }
        }
    }

    fn judge(&self, event: GuestEvent) -> VmExit {
        match event {
            GuestEvent::PowerOff => VmExit::PowerOff,
            GuestEvent::Panic => VmExit::Panic,
            // A kernel told `panic=-1` resets the machine right after the message.
            GuestEvent::Reset if self.wiring.console.contains(PANIC) => VmExit::Panic,
            GuestEvent::Reset => VmExit::Reset,
        }
    }
}

/// Binds the calling thread to a processor of the host.
fn bind(host_cpu: usize) -> io::Result<()> {
    if host_cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(host_cpu);
    Ok(sched_setaffinity(None, &set)?)
}
