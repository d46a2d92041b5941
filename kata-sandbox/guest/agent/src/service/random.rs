//! The kernel's random number generator, after a clone.
#![expect(unsafe_code, reason = "two ioctls that credit and apply entropy")]

use std::fs::File;
use std::os::fd::AsRawFd;

use kata_protocol::ttrpc::Status;

use super::{internal, invalid};

/// `RNDADDENTROPY` and `RNDRESEEDCRNG` of `linux/random.h`.
const ADD_ENTROPY: libc::Ioctl = 0x4008_5203;
const RESEED: libc::Ioctl = 0x5207;
/// More than this makes the generator no better.
const LIMIT: usize = 4096;

/// `struct rand_pool_info`, with room for the most that is accepted.
#[repr(C)]
struct Entropy {
    bits: libc::c_int,
    bytes: libc::c_int,
    data: [u8; LIMIT],
}

/// Mixes `data` in, credits it, and makes the generator use it at once.
pub(super) fn reseed(data: &[u8]) -> Result<(), Status> {
    if data.is_empty() || data.len() > LIMIT {
        return Err(invalid(format!(
            "{} bytes of entropy, not 1 to {LIMIT}",
            data.len()
        )));
    }
    let bytes = libc::c_int::try_from(data.len()).expect("at most 4096");
    let mut entropy = Entropy {
        bits: bytes * 8,
        bytes,
        data: [0; LIMIT],
    };
    entropy.data[..data.len()].copy_from_slice(data);
    let device = File::options()
        .write(true)
        .open("/dev/urandom")
        .map_err(internal("open /dev/urandom"))?;
    // SAFETY: `entropy` has the layout of `rand_pool_info` and says how many
    // bytes follow its header; the kernel only reads it.
    let added = unsafe { libc::ioctl(device.as_raw_fd(), ADD_ENTROPY, &raw const entropy) };
    check(added, "add entropy")?;
    // SAFETY: this request takes no argument.
    let reseeded = unsafe { libc::ioctl(device.as_raw_fd(), RESEED) };
    check(reseeded, "reseed the random number generator")
}

fn check(result: libc::c_int, what: &str) -> Result<(), Status> {
    if result == 0 {
        Ok(())
    } else {
        Err(internal(what)(std::io::Error::last_os_error()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_entropy_is_refused() {
        assert!(reseed(&[]).is_err());
        assert!(reseed(&[0; LIMIT + 1]).is_err());
    }
}
