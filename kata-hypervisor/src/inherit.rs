//! What a program that is executed does not inherit.
#![expect(unsafe_code, reason = "descriptors are marked by number")]

/// Marks every descriptor from `first` on to be closed when this process
/// executes another program, so that none that somebody forgot to mark reaches
/// it. Makes system calls only: it may be called between fork and exec.
pub fn nothing_from(first: u32) {
    // SAFETY: close_range with this flag changes descriptor flags, no memory.
    let marked = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if marked == 0 {
        return;
    }
    // Linux before 5.11: one by one, as far as descriptors usually go.
    for fd in first..4096 {
        // SAFETY: setting a flag on a descriptor that may not be open is
        // answered with EBADF and does nothing else.
        unsafe { libc::fcntl(fd.cast_signed(), libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}
