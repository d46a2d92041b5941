//! What a processor came back with.

use kvm_ioctls::{VcpuExit, VcpuFd};

use super::fault;
use crate::kvm::bus::Bus;
use crate::kvm::ending::GuestEvent;

/// What is to be done after a run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Run on.
    Again,
    /// Look whether there are orders first.
    Orders,
    /// The guest ends its machine.
    Guest(GuestEvent),
    /// The processor cannot go on, and why.
    Broken(String),
}

/// Kinds of `KVM_EXIT_SYSTEM_EVENT`.
const SYSTEM_SHUTDOWN: u32 = 1;
const SYSTEM_RESET: u32 = 2;
const SYSTEM_CRASH: u32 = 3;

/// Runs the guest until something is to be done, and does what the bus can.
pub(super) fn run(vcpu: &mut VcpuFd, bus: &Bus) -> Step {
    let exit = match vcpu.run() {
        Ok(exit) => exit,
        Err(error) => return failed(error.errno()),
    };
    match exit {
        VcpuExit::IoIn(port, data) => bus.read_port(port, data),
        VcpuExit::IoOut(port, data) => {
            return bus.write_port(port, data).map_or(Step::Again, Step::Guest);
        }
        VcpuExit::MmioRead(address, data) => bus.read_mmio(address, data),
        VcpuExit::MmioWrite(address, data) => bus.write_mmio(address, data),
        // A fault while a fault is handled resets a processor.
        VcpuExit::Shutdown => return Step::Guest(GuestEvent::Reset),
        VcpuExit::SystemEvent(SYSTEM_SHUTDOWN, _) => return Step::Guest(GuestEvent::PowerOff),
        VcpuExit::SystemEvent(SYSTEM_RESET, _) => return Step::Guest(GuestEvent::Reset),
        VcpuExit::SystemEvent(SYSTEM_CRASH, _) => return Step::Guest(GuestEvent::Panic),
        VcpuExit::InternalError => return Step::Broken(fault::describe(vcpu)),
        VcpuExit::FailEntry(reason, _) => {
            return Step::Broken(format!("the processor refused its state: {reason:#x}"));
        }
        VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen => return Step::Orders,
        other => return Step::Broken(format!("KVM stopped with {other:?}")),
    }
    Step::Again
}

fn failed(errno: i32) -> Step {
    match errno {
        libc::EINTR | libc::EAGAIN => Step::Orders,
        errno => {
            let error = std::io::Error::from_raw_os_error(errno);
            Step::Broken(format!("KVM does not run the processor: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_run_asks_for_orders_and_another_failure_ends_it() {
        assert_eq!(failed(libc::EINTR), Step::Orders);
        let step = failed(libc::EFAULT);
        assert!(matches!(step, Step::Broken(why) if why.contains("Bad address")));
    }
}
