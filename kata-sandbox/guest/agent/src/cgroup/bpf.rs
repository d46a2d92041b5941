//! bpf(2), as far as device programs need it.
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use kata_protocol::ttrpc::{Code, Status};

use super::devices::Instruction;
use crate::process::Context as _;

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Programs of the groups above stay in force, too.
const ALLOW_MULTI: u32 = 2;

/// The start of `union bpf_attr` for PROG_LOAD.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// `union bpf_attr` for PROG_ATTACH and PROG_DETACH.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Hands a device program to the kernel.
///
/// # Errors
/// When the kernel has no such programs or finds it faulty.
pub(super) fn load(program: &[Instruction]) -> Result<OwnedFd, Status> {
    let license = c"Apache-2.0";
    let attributes = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).unwrap_or(u32::MAX),
        instructions: program.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        ..Load::default()
    };
    // SAFETY: `attributes` points to `count` instructions and a NUL-terminated
    // string, which outlive the call.
    let fd = unsafe { bpf(PROG_LOAD, &attributes) }.map_err(|error| unsupported(&error))?;
    // SAFETY: the kernel has just made this descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts a program in force for a control group.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn attach(group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Status> {
    change(PROG_ATTACH, group, program, ALLOW_MULTI).map_err(|error| unsupported(&error))
}

/// Takes a program out of force.
///
/// # Errors
/// When it was not in force.
pub(super) fn detach(group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Status> {
    change(PROG_DETACH, group, program, 0).context(|| "take a device program out of force")
}

fn change(
    command: libc::c_int,
    group: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    flags: u32,
) -> io::Result<()> {
    let attributes = Attach {
        target: group.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        kind: ATTACH_CGROUP_DEVICE,
        flags,
    };
    // SAFETY: the attributes hold no pointers.
    unsafe { bpf(command, &attributes) }.map(drop)
}

/// # Safety
/// `attributes` must be the command's part of `union bpf_attr`, and pointers in
/// it valid for the call.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the caller's; the size is the attributes' own.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}

fn unsupported(error: &io::Error) -> Status {
    Status::new(
        Code::FailedPrecondition,
        format!(
            "the guest's kernel takes no device program ({error}): \
             limiting devices needs CONFIG_CGROUP_BPF"
        ),
    )
}
