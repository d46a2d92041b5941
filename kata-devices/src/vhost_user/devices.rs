//! One constructor per device and way to meet its front end.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use super::server::Server;
use super::worker::Entrance;
use crate::Result;
use crate::blk::{Blk, BlkConfig};
use crate::console::{Console, ConsoleConfig};
use crate::epoll::Epoll;
use crate::fs::{self, FsConfig};
use crate::net::{Net, NetConfig};
use crate::rng::{Rng, RngConfig};
use crate::virtio::{Driven, ThreadStart};
use crate::vsock::{self, VsockConfig};

/// What a vhost-user server can be made of.
trait Served {
    /// The name of the device's thread.
    const THREAD: &str;
    type Device: Driven;

    fn make(&self, epoll: &Arc<Epoll>) -> Result<Self::Device>;
}

impl Served for VsockConfig {
    const THREAD: &str = "kata-vsock";
    type Device = vsock::Served;

    fn make(&self, epoll: &Arc<Epoll>) -> Result<Self::Device> {
        vsock::Served::new(self, Arc::clone(epoll))
    }
}

impl Served for FsConfig {
    const THREAD: &str = "kata-fs";
    type Device = fs::Served;

    fn make(&self, _epoll: &Arc<Epoll>) -> Result<Self::Device> {
        fs::Served::new(self, &ThreadStart::default())
    }
}

impl Served for BlkConfig {
    const THREAD: &str = "kata-blk";
    type Device = Blk;

    fn make(&self, epoll: &Arc<Epoll>) -> Result<Self::Device> {
        Blk::new(self, epoll)
    }
}

impl Served for RngConfig {
    const THREAD: &str = "kata-rng";
    type Device = Rng;

    fn make(&self, epoll: &Arc<Epoll>) -> Result<Self::Device> {
        self.validate()?;
        Ok(Rng::new(self, epoll))
    }
}

fn serve<C: Served>(config: &C, entrance: Entrance) -> Result<Server> {
    Server::start(C::THREAD, entrance, |epoll| config.make(epoll))
}

fn listen<C: Served>(config: &C, socket: &Path) -> Result<Server> {
    serve(config, Entrance::listen(socket)?)
}

/// Serving a device fails when its configuration is invalid, or the host refuses
/// a file, socket or thread.
impl Server {
    /// Serves a vsock device to the front end that connects to `socket`.
    ///
    /// # Errors
    /// When the configuration is invalid, or the host refuses a socket or thread.
    pub fn vsock(config: &VsockConfig, socket: &Path) -> Result<Self> {
        listen(config, socket)
    }

    /// Serves a vsock device to the front end at the other end of `stream`.
    ///
    /// # Errors
    /// When the configuration is invalid, or the host refuses a socket or thread.
    pub fn vsock_on(config: &VsockConfig, stream: UnixStream) -> Result<Self> {
        serve(config, Entrance::Connected(stream))
    }

    /// Serves a shared file system to the front end that connects to `socket`.
    ///
    /// # Errors
    /// When the configuration is invalid, or the host refuses a socket or thread.
    pub fn fs(config: &FsConfig, socket: &Path) -> Result<Self> {
        listen(config, socket)
    }

    /// Serves a shared file system to the front end at the other end of `stream`.
    ///
    /// # Errors
    /// When the configuration is invalid, or the host refuses a socket or thread.
    pub fn fs_on(config: &FsConfig, stream: UnixStream) -> Result<Self> {
        serve(config, Entrance::Connected(stream))
    }

    /// Serves a disk to the front end that connects to `socket`.
    ///
    /// # Errors
    /// When the configuration is invalid, or the host refuses the disk, a socket or
    /// a thread.
    pub fn blk(config: &BlkConfig, socket: &Path) -> Result<Self> {
        listen(config, socket)
    }

    /// Serves a disk to the front end at the other end of `stream`.
    ///
    /// # Errors
    /// When the configuration is invalid, or the host refuses the disk or a thread.
    pub fn blk_on(config: &BlkConfig, stream: UnixStream) -> Result<Self> {
        serve(config, Entrance::Connected(stream))
    }

    /// Serves a network card to the front end that connects to `socket`.
    ///
    /// # Errors
    /// When the configuration is invalid, or the host refuses the link, a socket or
    /// a thread.
    pub fn net(config: NetConfig, socket: &Path) -> Result<Self> {
        let entrance = Entrance::listen(socket)?;
        Self::start("kata-net", entrance, |epoll| Net::new(config, epoll))
    }

    /// Serves a network card to the front end at the other end of `stream`.
    ///
    /// # Errors
    /// When the configuration is invalid, or the host refuses the link or a thread.
    pub fn net_on(config: NetConfig, stream: UnixStream) -> Result<Self> {
        let entrance = Entrance::Connected(stream);
        Self::start("kata-net", entrance, |epoll| Net::new(config, epoll))
    }

    /// Serves a console to the front end that connects to `socket`.
    ///
    /// # Errors
    /// When the host refuses a descriptor, socket or thread.
    pub fn console(config: ConsoleConfig, socket: &Path) -> Result<Self> {
        let entrance = Entrance::listen(socket)?;
        Self::start("kata-console", entrance, |epoll| {
            Console::new(config, epoll)
        })
    }

    /// Serves a console to the front end at the other end of `stream`.
    ///
    /// # Errors
    /// When the host refuses a descriptor or thread.
    pub fn console_on(config: ConsoleConfig, stream: UnixStream) -> Result<Self> {
        let entrance = Entrance::Connected(stream);
        Self::start("kata-console", entrance, |epoll| {
            Console::new(config, epoll)
        })
    }

    /// Serves entropy to the front end that connects to `socket`.
    ///
    /// # Errors
    /// When the configuration is invalid, or the host refuses a socket or thread.
    pub fn rng(config: &RngConfig, socket: &Path) -> Result<Self> {
        listen(config, socket)
    }

    /// Serves entropy to the front end at the other end of `stream`.
    ///
    /// # Errors
    /// When the configuration is invalid, or the host refuses a thread.
    pub fn rng_on(config: &RngConfig, stream: UnixStream) -> Result<Self> {
        serve(config, Entrance::Connected(stream))
    }
}
