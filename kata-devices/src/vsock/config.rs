//! Description of a vsock device.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::served::Served;
use crate::virtio::{Hosted, ThreadStart, VirtioDevice};
use crate::{Error, Result};

/// The longest path of a unix socket, without its terminating zero.
const MAX_SOCKET_PATH: usize = 107;

/// The longest suffix of a port: `_4294967295`.
const MAX_PORT_SUFFIX: usize = 11;

/// A vsock device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VsockConfig {
    /// The guest's context id; 3 or more. Each machine may have the same.
    pub guest_cid: u64,
    /// Unix socket on which the host dials the guest (`CONNECT <port>\n`,
    /// answered by `OK <host port>\n`). What the guest dials on the host goes
    /// to the unix socket `<socket>_<port>`, if somebody listens there.
    pub socket: PathBuf,
}

impl VsockConfig {
    /// The socket to which a connection of the guest to `port` goes.
    #[must_use]
    pub fn host_socket(&self, port: u32) -> PathBuf {
        host_socket(&self.socket, port)
    }

    /// The device, for a transport of this process. Its socket exists from then
    /// on; `thread_start` is called by its thread.
    ///
    /// # Errors
    /// When the configuration is invalid, or the host refuses a socket or thread.
    pub fn device(&self, thread_start: &ThreadStart) -> Result<Box<dyn VirtioDevice>> {
        let hosted = Hosted::start("kata-vsock", thread_start, |epoll| {
            Served::new(self, Arc::clone(epoll))
        })?;
        Ok(Box::new(hosted))
    }

    /// Whether a device can be made of this.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a reserved context id or a path that is too
    /// long for the sockets beside it.
    pub fn validate(&self) -> Result<()> {
        if self.guest_cid < 3 || self.guest_cid >= u64::from(u32::MAX) {
            return Err(Error::InvalidConfig {
                field: "guest_cid",
                reason: format!("{} is reserved; use 3 to 4294967294", self.guest_cid),
            });
        }
        let length = self.socket.as_os_str().len();
        if length == 0 || length + MAX_PORT_SUFFIX > MAX_SOCKET_PATH {
            return Err(Error::InvalidConfig {
                field: "socket",
                reason: format!(
                    "{} has {length} bytes; at most {} leave room for the port that is appended",
                    self.socket.display(),
                    MAX_SOCKET_PATH - MAX_PORT_SUFFIX
                ),
            });
        }
        Ok(())
    }
}

pub(crate) fn host_socket(socket: &Path, port: u32) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(format!("_{port}"));
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(guest_cid: u64, socket: &str) -> VsockConfig {
        VsockConfig {
            guest_cid,
            socket: socket.into(),
        }
    }

    #[test]
    fn reserved_context_ids_are_refused() {
        for cid in [0, 1, 2, u64::from(u32::MAX), u64::MAX] {
            let error = config(cid, "/run/v").validate().unwrap_err().to_string();
            assert!(error.contains("guest_cid"), "{error}");
        }
        config(3, "/run/v").validate().unwrap();
    }

    #[test]
    fn a_path_must_leave_room_for_the_port() {
        config(3, &"x".repeat(96)).validate().unwrap();
        assert!(config(3, &"x".repeat(97)).validate().is_err());
        assert!(config(3, "").validate().is_err());
    }

    #[test]
    fn the_port_is_appended_to_the_path() {
        assert_eq!(
            config(3, "/run/v").host_socket(1024),
            Path::new("/run/v_1024")
        );
    }
}
