//! Opening network namespaces.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::fstatfs;

use crate::error::{Error, Result};

/// `NSFS_MAGIC` of `linux/magic.h`: what namespaces' files are on.
const NSFS: u64 = 0x6e73_6673;

/// Opens the network namespace of a path, which must not be the host's, nor
/// this program's own.
pub(crate) fn open(path: &Path) -> Result<OwnedFd> {
    let refuse = |reason: String| Error::NotANamespace {
        path: path.to_owned(),
        reason,
    };
    let file = File::open(path).map_err(|error| refuse(error.to_string()))?;
    let on = fstatfs(&file).map_err(|error| refuse(error.to_string()))?;
    if u64::try_from(on.f_type).ok() != Some(NSFS) {
        return Err(refuse("it is a file of another kind".to_owned()));
    }
    let same = |other: &str| -> io::Result<bool> {
        let (this, other) = (file.metadata()?, std::fs::metadata(other)?);
        Ok((this.dev(), this.ino()) == (other.dev(), other.ino()))
    };
    // Somebody else's namespaces may be none of this user's business: then
    // they are not what was opened either.
    for host in ["/proc/1/ns/net", "/proc/self/ns/net"] {
        if same(host).unwrap_or(false) {
            return Err(Error::HostNetwork {
                path: path.to_owned(),
            });
        }
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_network_is_refused_by_name() {
        let error = open(Path::new("/proc/self/ns/net")).unwrap_err();
        assert!(matches!(error, Error::HostNetwork { .. }), "{error}");
        assert!(error.to_string().contains("host"), "{error}");
    }

    #[test]
    fn what_is_no_namespace_is_told_from_what_is_not_there() {
        let gone = open(Path::new("/run/netns/no-such")).unwrap_err();
        assert!(gone.to_string().contains("No such file"), "{gone}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let file = open(file.path()).unwrap_err();
        assert!(file.to_string().contains("another kind"), "{file}");
    }
}
