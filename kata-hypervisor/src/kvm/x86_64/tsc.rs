//! The time stamp counter, which stands still while a machine is paused.
#![expect(
    unsafe_code,
    reason = "the counter is read by an instruction, its offset by a raw ioctl"
)]

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, kvm_device_attr};
use kvm_ioctls::{VcpuFd, VmFd};

/// `KVM_SET_DEVICE_ATTR` and `KVM_GET_DEVICE_ATTR`, which the bindings do not
/// have for processors of this architecture.
const SET_DEVICE_ATTR: libc::c_ulong = request(0xe1);
const GET_DEVICE_ATTR: libc::c_ulong = request(0xe2);

const fn request(number: u32) -> libc::c_ulong {
    const SIZE: u32 = 24;
    assert!(size_of::<kvm_device_attr>() == SIZE as usize);
    vmm_sys_util::ioctl::ioctl_expr(vmm_sys_util::ioctl::_IOC_WRITE, 0xae, number, SIZE)
}

/// The host's counters at a moment.
#[derive(Clone, Copy, Debug)]
pub(in crate::kvm) struct Counter {
    ticks: u64,
    /// The machine's paravirtual clock, in nanoseconds, where KVM tells.
    clock: Option<u64>,
}

impl Counter {
    /// Now.
    pub(in crate::kvm) fn now(vm: &VmFd) -> Self {
        Self {
            ticks: ticks(),
            clock: vm.get_clock().ok().map(|clock| clock.clock),
        }
    }

    /// Sets the machine's clock back to this moment, and says how many ticks have
    /// passed since.
    pub(in crate::kvm) fn return_to(self, vm: &VmFd) -> u64 {
        if let Some(clock) = self.clock {
            let then = kvm_bindings::kvm_clock_data {
                clock,
                ..kvm_bindings::kvm_clock_data::default()
            };
            if let Err(error) = vm.set_clock(&then) {
                log::warn!(error:%; "the guest's clock has run while it was paused");
            }
        }
        ticks().wrapping_sub(self.ticks)
    }
}

fn ticks() -> u64 {
    // SAFETY: every x86_64 processor has this instruction, and Linux lets
    // programs use it unless they ask it not to.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Makes up for `stood` ticks, in which a processor did not run.
pub(in crate::kvm) fn stand_still(vcpu: &VcpuFd, stood: u64) {
    // Otherwise the guest would take the pause for a processor that hangs.
    let _ = vcpu.kvmclock_ctrl();
    // A host before Linux 5.16 cannot: there the counter jumps, and the clock,
    // which was set back, does not follow.
    if let Ok(offset) = offset(vcpu)
        && let Err(error) = set_offset(vcpu, offset.wrapping_sub(stood))
    {
        log::warn!(error:%; "the guest's time stamp counter has run while it was paused");
    }
}

fn attribute(value: *mut u64) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: value.addr() as u64,
        flags: 0,
    }
}

fn offset(vcpu: &VcpuFd) -> io::Result<u64> {
    let mut value = 0u64;
    access(vcpu, GET_DEVICE_ATTR, &attribute(&raw mut value))?;
    Ok(value)
}

fn set_offset(vcpu: &VcpuFd, mut value: u64) -> io::Result<()> {
    access(vcpu, SET_DEVICE_ATTR, &attribute(&raw mut value))
}

fn access(vcpu: &VcpuFd, request: libc::c_ulong, attribute: &kvm_device_attr) -> io::Result<()> {
    // SAFETY: either request reads the attribute, and reads or writes the eight
    // bytes to which it points, which the callers own; both outlive the call.
    let result = unsafe { libc::ioctl(vcpu.as_raw_fd(), request, std::ptr::from_ref(attribute)) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
