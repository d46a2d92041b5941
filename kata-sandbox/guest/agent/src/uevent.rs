//! The kernel's announcements of devices.
//!
//! Whoever waits for a device listens first, looks in `/sys` second, and then
//! hears of what comes later: nothing is missed and nothing is polled.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recv, socket_with,
};
use tokio::io::unix::AsyncFd;

use crate::socket::{NetlinkAddress, watch};

/// The kernel's own group; others carry udev's messages.
const KERNEL: u32 = 1;
/// The kernel's buffer for an event has 2 KiB of variables, and a path.
const EVENT: usize = 8192;

/// The stream of events, from its making on.
#[derive(Debug)]
pub(crate) struct Uevents {
    socket: AsyncFd<OwnedFd>,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Uevent {
    variables: Vec<(String, String)>,
}

impl Uevents {
    /// Starts to listen.
    pub(crate) fn listen() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::KOBJECT_UEVENT);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)?;
        bind(&socket, &NetlinkAddress { groups: KERNEL })?;
        Ok(Self {
            socket: watch(socket)?,
        })
    }

    /// The next event. Events that were lost in a flood are made up for by an
    /// empty one: look again.
    pub(crate) async fn next(&mut self) -> io::Result<Uevent> {
        let mut buffer = [0; EVENT];
        loop {
            let mut ready = self.socket.readable().await?;
            match recv(self.socket.get_ref(), &mut buffer, RecvFlags::empty()) {
                Ok((length, _)) => return Ok(Uevent::parse(&buffer[..length])),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::NOBUFS) => {
                    return Ok(Uevent {
                        variables: Vec::new(),
                    });
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Uevent {
    /// `action@path`, then `KEY=value`, each ended by a zero byte.
    fn parse(bytes: &[u8]) -> Self {
        let variables = bytes
            .split(|byte| *byte == 0)
            .filter_map(|field| std::str::from_utf8(field).ok()?.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Self { variables }
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.variables
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// The class of the device, such as `block`.
    pub(crate) fn subsystem(&self) -> Option<&str> {
        self.get("SUBSYSTEM")
    }
}

/// Waits until `find` finds something, looking again after each event; `None`
/// when it has not within `limit`.
pub(crate) async fn wait_for<T>(
    limit: Duration,
    mut find: impl FnMut() -> io::Result<Option<T>>,
) -> io::Result<Option<T>> {
    if let Some(found) = find()? {
        return Ok(Some(found));
    }
    let mut events = Uevents::listen()?;
    let search = async {
        loop {
            if let Some(found) = find()? {
                return Ok(found);
            }
            events.next().await?;
        }
    };
    tokio::time::timeout(limit, search)
        .await
        .map_or(Ok(None), |found| found.map(Some))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_into_its_variables() {
        let event = Uevent::parse(b"add@/devices/x\0ACTION=add\0SUBSYSTEM=block\0DEVNAME=vda\0");
        assert_eq!(event.subsystem(), Some("block"));
        assert_eq!(event.get("DEVNAME"), Some("vda"));
        assert_eq!(event.get("MAJOR"), None);
    }

    #[tokio::test]
    async fn waiting_ends_at_the_limit() {
        let found = wait_for(Duration::from_millis(20), || Ok(None::<()>))
            .await
            .unwrap();
        assert_eq!(found, None);
    }

    #[tokio::test]
    async fn what_is_there_needs_no_event() {
        assert_eq!(
            wait_for(Duration::ZERO, || Ok(Some(7))).await.unwrap(),
            Some(7)
        );
    }
}
