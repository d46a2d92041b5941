//! Description of a device with a back end in another process.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use virtio_bindings::{virtio_blk, virtio_net};

use super::device::Offloaded;
use super::user::VhostUser;
use crate::net::MacAddress;
use crate::virtio::{DeviceKind, MAX_SIZE, ThreadStart, VirtioDevice};
use crate::{Error, Result};

/// Where a card's configuration space has the MTU (virtio 1.2 §5.1.4).
const MTU_AT: usize = 10;

/// Queues of usual size.
const QUEUE_SIZE: u16 = 256;

/// A device whose back end listens on a vhost-user socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostUserConfig {
    /// What kind of device it is.
    pub kind: DeviceKind,
    /// Where the back end listens.
    pub socket: PathBuf,
    /// The largest size of each queue.
    pub queue_sizes: Vec<u16>,
    /// The features that may be offered, if the back end has them.
    pub features: u64,
    /// The configuration space.
    pub config: ConfigSource,
}

/// Where a configuration space comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// These bytes.
    Own(Vec<u8>),
    /// So many bytes of the back end's.
    BackEnd(usize),
}

impl VhostUserConfig {
    /// Any kind of device, with all features of the back end.
    #[must_use]
    pub fn new(kind: DeviceKind, socket: &Path, queues: u16, config: ConfigSource) -> Self {
        Self {
            kind,
            socket: socket.to_owned(),
            queue_sizes: vec![QUEUE_SIZE; usize::from(queues)],
            features: u64::MAX,
            config,
        }
    }

    /// A disk with so many queues.
    #[must_use]
    pub fn blk(socket: &Path, queues: u16) -> Self {
        let mut config = Self::new(DeviceKind::BLOCK, socket, queues, ConfigSource::BackEnd(60));
        if queues == 1 {
            config.features &= !(1 << virtio_blk::VIRTIO_BLK_F_MQ);
        }
        config
    }

    /// A network card with one queue pair.
    #[must_use]
    pub fn net(socket: &Path, mac: MacAddress) -> Self {
        let mut space = mac.0.to_vec();
        space.extend([1, 0, 1, 0, 0, 0]);
        let mut config = Self::new(DeviceKind::NET, socket, 2, ConfigSource::Own(space));
        // There is no control queue here, nor what hangs on it.
        let unserved = [
            virtio_net::VIRTIO_NET_F_CTRL_VQ,
            virtio_net::VIRTIO_NET_F_MQ,
            virtio_net::VIRTIO_NET_F_MTU,
            virtio_net::VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
            virtio_net::VIRTIO_NET_F_GUEST_ANNOUNCE,
        ];
        config.features = unserved.iter().fold(u64::MAX, |all, bit| all & !(1 << bit));
        config
    }

    /// A card that tells the guest the largest packet it may send, in bytes without
    /// the Ethernet header (`VIRTIO_NET_F_MTU`).
    #[must_use]
    pub fn with_mtu(mut self, mtu: u16) -> Self {
        if let (DeviceKind::NET, ConfigSource::Own(space)) = (self.kind, &mut self.config) {
            space[MTU_AT..MTU_AT + 2].copy_from_slice(&mtu.to_le_bytes());
            self.features |= 1 << virtio_net::VIRTIO_NET_F_MTU;
        }
        self
    }

    /// A shared file system that the guest mounts by `tag`.
    #[must_use]
    pub fn fs(socket: &Path, tag: &str) -> Self {
        let mut space = tag.as_bytes().to_vec();
        space.resize(36, 0);
        space.extend(1u32.to_le_bytes());
        Self::new(DeviceKind::FS, socket, 2, ConfigSource::Own(space))
    }

    /// The device, for a transport of this process. The back end must listen
    /// already. `thread_start` is called by the thread that watches it.
    ///
    /// # Errors
    /// When the configuration is invalid, or the back end does not answer.
    pub fn device(&self, thread_start: &ThreadStart) -> Result<Box<dyn VirtioDevice>> {
        let fits = |size: &u16| size.is_power_of_two() && *size <= MAX_SIZE;
        if self.queue_sizes.is_empty() || !self.queue_sizes.iter().all(fits) {
            return Err(Error::InvalidConfig {
                field: "queue_sizes",
                reason: format!("{:?} are no sizes of queues", self.queue_sizes),
            });
        }
        let failed = || {
            let socket = self.socket.display();
            Error::host(format!("reach the vhost-user back end at {socket}"))
        };
        let stream = UnixStream::connect(&self.socket).map_err(failed())?;
        let mut link =
            VhostUser::new(stream, self.queue_sizes.len(), thread_start).map_err(failed())?;
        let space = match &self.config {
            ConfigSource::Own(bytes) => bytes.clone(),
            ConfigSource::BackEnd(length) => link.read_config(*length).map_err(failed())?,
        };
        let sizes = self.queue_sizes.clone();
        let device = Offloaded::new(link, self.kind, sizes, self.features, space);
        Ok(Box::new(device))
    }
}
