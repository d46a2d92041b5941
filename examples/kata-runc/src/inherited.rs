//! A descriptor that the parent process left open for this one.
#![expect(
    unsafe_code,
    reason = "only the parent's word makes a number a descriptor of ours"
)]

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

use rustix::fd::BorrowedFd;
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Takes the descriptor of that number, which nothing else in this process
/// uses: it was named on the command line, by the parent that opened it.
///
/// # Errors
/// When there is none, or it is one of the standard streams.
pub(crate) fn take(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        let reason = "a standard stream is no control socket";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    // SAFETY: borrowed for two calls that fail with EBADF when it is not open;
    // nobody closes it meanwhile, for this process has one thread yet.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(borrowed)?;
    if flags.contains(FdFlags::CLOEXEC) {
        // It would not have come through exec: it is one of this program's own.
        let reason = format!("descriptor {number} was not inherited");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC)?;
    // SAFETY: it is open, as the call above found, and inherited: no value of
    // this program owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Takes the descriptor of that number, as [`take`], and closes all others that
/// were inherited but the standard streams: what the caller left open by mistake
/// must not be held for as long as the container lives.
///
/// # Errors
/// As [`take`], and when it cannot be found out what is open.
pub(crate) fn take_alone(number: RawFd) -> io::Result<OwnedFd> {
    let taken = take(number)?;
    for stray in strays()? {
        // SAFETY: it was inherited, so that no value of this program owns it,
        // and `strays` found it open; this process has one thread yet.
        drop(unsafe { OwnedFd::from_raw_fd(stray) });
    }
    Ok(taken)
}

/// Descriptors that are open, are no standard streams, and came through exec:
/// this program marks all of its own.
fn strays() -> io::Result<Vec<RawFd>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        all.extend(name.to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    all.retain(|number| {
        // SAFETY: borrowed for a call that fails with EBADF when it is not open,
        // as the directory's own is by now.
        let borrowed = (*number > 2).then(|| unsafe { BorrowedFd::borrow_raw(*number) });
        let flags = borrowed.map(fcntl_getfd);
        matches!(flags, Some(Ok(flags)) if !flags.contains(FdFlags::CLOEXEC))
    });
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn what_is_closed_standard_or_of_our_own_is_not_taken() {
        assert!(take(0).is_err());
        assert!(take(1 << 20).is_err());
        let own = std::fs::File::open("/dev/null").unwrap();
        assert!(take(own.as_raw_fd()).is_err());
    }
}
