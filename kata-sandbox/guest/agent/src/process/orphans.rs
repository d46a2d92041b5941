//! The first process of a shared pid namespace, which orphans are given to.
#![expect(unsafe_code, reason = "sigwaitinfo has no safe wrapper")]

use rustix::process::WaitOptions;

/// Collects whatever ends, until this process is killed; gives an exit status
/// if it cannot.
pub(crate) fn wait_for_orphans() -> i32 {
    // SAFETY: plain calls on an initialized set, in a process of one thread.
    let set = unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return 1;
        }
        set
    };
    loop {
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        // SAFETY: as above; nothing is asked about the signal.
        let signal = unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) };
        if signal == -1 && std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return 1;
        }
    }
}
