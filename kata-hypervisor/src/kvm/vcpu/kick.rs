//! Getting a processor out of the guest.
#![expect(unsafe_code, reason = "signals and their masks are system calls")]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::AsRawFd;

use kvm_ioctls::VcpuFd;
use rustix::process::Pid;

/// Bytes of the kernel's set of signals.
const SET_SIZE: u32 = 8;
/// `KVM_SET_SIGNAL_MASK`, whose argument ends in a set of any size.
const SET_SIGNAL_MASK: libc::c_ulong =
    vmm_sys_util::ioctl::ioctl_expr(vmm_sys_util::ioctl::_IOC_WRITE, 0xae, 0x8b, 4);

/// The signal: one that programs hardly ever use. It is sent to threads of ours
/// alone, which block it.
fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 7
}

/// What the kernel takes: the length, and the set itself.
#[repr(C)]
struct Mask {
    length: u32,
    set: [u8; SET_SIZE as usize],
}

/// Blocks all signals in the calling thread, and has `vcpu`, which it will run,
/// let the kick through while the guest runs.
pub(super) fn arm(vcpu: &VcpuFd) -> io::Result<()> {
    let mut all = MaybeUninit::uninit();
    // SAFETY: `sigfillset` makes the set whole, before it is read.
    let blocked = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut())
    };
    if blocked != 0 {
        return Err(io::Error::from_raw_os_error(blocked));
    }
    let mask = Mask {
        length: SET_SIZE,
        set: (!(1u64 << (signal() - 1))).to_ne_bytes(),
    };
    const { assert!(size_of::<Mask>() == 12) };
    // SAFETY: the argument is of the form that this request reads, and outlives
    // the call.
    let set = unsafe { libc::ioctl(vcpu.as_raw_fd(), SET_SIGNAL_MASK, &raw const mask) };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes back the kicks that came, so that the next run is not ended by them.
pub(super) fn drain() {
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut set = MaybeUninit::uninit();
    // SAFETY: the set is made whole first, and the other pointers are valid or
    // null, as the call allows.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal());
        while libc::sigtimedwait(set.as_ptr(), std::ptr::null_mut(), &raw const now) > 0 {}
    }
}

/// Kicks a thread of this process that is armed. It must not have ended.
pub(super) fn kick(thread: Pid) {
    let process = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: a system call without pointers. The thread blocks the signal.
    unsafe {
        libc::syscall(
            libc::SYS_tgkill,
            process,
            thread.as_raw_nonzero().get(),
            signal(),
        );
    }
}
