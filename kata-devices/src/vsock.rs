//! virtio-vsock.
use std::path::PathBuf;
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
