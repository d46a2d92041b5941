//! What a thread must be, so that files get the right owner and mode.

use std::io;

use rustix::fs::Mode;
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet};

/// Whether this process may act for any user of the guest.
pub(super) fn can_act_for_others() -> bool {
    let is_root = rustix::process::geteuid().is_root() && rustix::process::getegid().is_root();
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID;
    is_root && rustix::thread::capabilities(None).is_ok_and(|has| has.effective.contains(needed))
}

/// Gives the calling thread a umask of its own, which is none: the mode that the
/// guest asks for is the mode that a file gets. The process's stays as it is.
/// Where the host forbids that (a container's seccomp profile may), the process's
/// umask counts.
pub(super) fn clear_umask_of_this_thread() {
    match unshare::file_system_attributes() {
        Ok(()) => drop(rustix::process::umask(Mode::empty())),
        Err(error) => {
            log::warn!(error:%; "fs: files of the guest get modes according to this process's umask");
        }
    }
}

/// Does what clears the umask, on a thread that may lose its own.
pub(super) fn sparing_the_umask<T>(work: impl FnOnce() -> T) -> T {
    if unshare::file_system_attributes().is_ok() {
        return work();
    }
    let umask = rustix::process::umask(Mode::empty());
    let done = work();
    rustix::process::umask(umask);
    done
}

/// Lets the calling thread keep its capabilities while it acts for a user: the
/// guest's kernel has checked permissions already, and knows groups of the user
/// that we do not. Without the right to do so, the host checks again.
pub(super) fn keep_capabilities_of_this_thread() {
    let keep = || -> io::Result<()> {
        let bits = rustix::thread::capabilities_secure_bits()?;
        let bits = bits | CapabilitiesSecureBits::NO_SETUID_FIXUP;
        Ok(rustix::thread::set_capabilities_secure_bits(bits)?)
    };
    if let Err(error) = keep() {
        log::debug!(error:%; "fs: the host checks permissions of the guest's users, too");
    }
}

mod unshare {
    #![expect(
        unsafe_code,
        reason = "unshare is unsafe for CLONE_FILES, which is not used"
    )]

    use std::io;

    use rustix::thread::UnshareFlags;

    pub(super) fn file_system_attributes() -> io::Result<()> {
        // SAFETY: the table of file descriptors stays shared; only umask, root
        // and current directory become the thread's own.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS)? };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_umask_of_other_threads_stays() {
        let read = || {
            let mask = rustix::process::umask(Mode::RWXO);
            rustix::process::umask(mask);
            mask
        };
        // A thread of its own, so that other tests' files are not affected.
        std::thread::spawn(move || {
            unshare::file_system_attributes().unwrap();
            rustix::process::umask(Mode::RWXO);
            let inner = std::thread::spawn(move || {
                clear_umask_of_this_thread();
                read()
            });
            assert_eq!(inner.join().unwrap(), Mode::empty());
            assert_eq!(read(), Mode::RWXO);
        })
        .join()
        .unwrap();
    }
}
