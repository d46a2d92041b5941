//! Who else uses a disk: locks as QEMU has them.
//!
//! QEMU tells other processes what it does with an image by read locks on single
//! bytes of the file, held by the open file description. Byte 100 + n says that it
//! does n, byte 200 + n that it bears nobody else to. First one says what one does
//! and bears, then one looks for somebody whom that disturbs, so that of two that
//! come at once at most one stays.
#![expect(
    unsafe_code,
    reason = "locks of open file descriptions have no safe calls"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Where the bytes of what is done begin.
const DOES: libc::off_t = 100;
/// Where the bytes of what is not borne begin.
const BEARS_NOT: libc::off_t = 200;

/// To read, and to rely on what is read.
const READ: libc::off_t = 0;
/// To write.
const WRITE: libc::off_t = 1;
/// To change the size.
const RESIZE: libc::off_t = 3;

/// What came of asking for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is ours as long as the file is open.
    Ours,
    /// Somebody uses it in a way that does not go together with ours.
    Taken,
}

/// Claims a disk for as long as `file` is open: whoever writes it is alone with it,
/// whoever reads it bears only others that read.
///
/// # Errors
/// When the file system has no such locks, or the host refuses them.
pub(super) fn claim(file: &File, read_only: bool) -> io::Result<Claim> {
    let does: &[_] = if read_only { &[READ] } else { &[READ, WRITE] };
    let bears_not = [WRITE, RESIZE];
    for at in does {
        set(file, DOES + at)?;
    }
    for at in bears_not {
        set(file, BEARS_NOT + at)?;
    }
    for at in does {
        if is_held_by_another(file, BEARS_NOT + at)? {
            return Ok(Claim::Taken);
        }
    }
    for at in bears_not {
        if is_held_by_another(file, DOES + at)? {
            return Ok(Claim::Taken);
        }
    }
    Ok(Claim::Ours)
}

fn byte(at: libc::off_t, kind: libc::c_int) -> io::Result<libc::flock> {
    // SAFETY: all fields of `flock` are integers, for which zero is valid.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind.try_into().map_err(io::Error::other)?;
    lock.l_whence = libc::SEEK_SET.try_into().map_err(io::Error::other)?;
    lock.l_start = at;
    lock.l_len = 1;
    Ok(lock)
}

fn set(file: &File, at: libc::off_t) -> io::Result<()> {
    let lock = byte(at, libc::F_RDLCK)?;
    // SAFETY: `lock` lives for the call, which reads it.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether a lock of ours alone would not be granted.
fn is_held_by_another(file: &File, at: libc::off_t) -> io::Result<bool> {
    let mut lock = byte(at, libc::F_WRLCK)?;
    // SAFETY: `lock` lives for the call, which writes to it.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if result == 0 {
        Ok(i32::from(lock.l_type) != libc::F_UNLCK)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(file: &tempfile::NamedTempFile, read_only: bool) -> File {
        File::options()
            .read(true)
            .write(!read_only)
            .open(file.path())
            .unwrap()
    }

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let claims = |read_only| {
            let file = open(&file, read_only);
            let claim = claim(&file, read_only).unwrap();
            (file, claim)
        };
        let (writer, claim) = claims(false);
        assert_eq!(claim, Claim::Ours);
        assert_eq!(claims(false).1, Claim::Taken);
        assert_eq!(claims(true).1, Claim::Taken);
        drop(writer);

        let (one, claim) = claims(true);
        assert_eq!(claim, Claim::Ours);
        let (two, claim) = claims(true);
        assert_eq!(claim, Claim::Ours);
        assert_eq!(claims(false).1, Claim::Taken);
        drop(one);
        assert_eq!(claims(false).1, Claim::Taken);
        drop(two);
        assert_eq!(claims(false).1, Claim::Ours);
    }

    #[test]
    fn somebody_who_refused_to_give_way_leaves_nothing_behind() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let reader = open(&file, true);
        assert_eq!(claim(&reader, true).unwrap(), Claim::Ours);
        assert_eq!(claim(&open(&file, false), false).unwrap(), Claim::Taken);
        // The writer is gone with its file: another reader finds none.
        assert_eq!(claim(&open(&file, true), true).unwrap(), Claim::Ours);
    }
}
