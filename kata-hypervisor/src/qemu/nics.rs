//! Network devices that come and go while the machine runs.
//!
//! A device is a back end that QEMU is handed over its monitor's socket, and
//! the card in front of it, in one of the spare ports. The card goes when the
//! guest lets go of it; then its back end, and with it the descriptors.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::args::{Bus, RECEIVE_RING, RootPort};
use super::backends::{is_socket, kernel_backends};
use super::vm::QemuVm;
use crate::error::{Error, Result};
use crate::nic::{Mac, NicBackend, NicConfig};
use crate::vm::{NicPlug, Vm as _};

const PHASE: &str = "attaching a network device";
/// How long the guest may take to let go of a device. PCI Express gives a person
/// five seconds to change their mind.
const DETACH: Duration = Duration::from_secs(30);

/// The names that QEMU has for the parts of the device in a port.
#[derive(Debug)]
struct Names {
    device: String,
    netdev: String,
    chardev: String,
}

impl Names {
    fn of(port: u32) -> Self {
        Self {
            device: format!("plugged-nic{port}"),
            netdev: format!("plugged-net{port}"),
            chardev: format!("plugged-vhost{port}"),
        }
    }
}

/// A back end as QEMU is told of it: what it is handed, and what it is told.
#[derive(Debug)]
struct Told {
    /// Descriptors, each with a name of its own.
    handed: Vec<(String, OwnedFd)>,
    /// A character device that is to be made before.
    chardev: Option<Value>,
    netdev: Value,
}

impl Told {
    fn of(backend: &NicBackend, names: &Names) -> io::Result<Self> {
        let id = &names.netdev;
        let mut handed = Vec::new();
        let mut hand = |kind: &str, fd: OwnedFd| {
            // A name that begins with a digit would be a number.
            let name = format!("{kind}-{id}-{}", handed.len());
            handed.push((name.clone(), fd));
            name
        };
        let (chardev, netdev) = match backend {
            NicBackend::Tap(taps) => {
                let mut queues = Vec::with_capacity(taps.len());
                for tap in taps {
                    queues.push(hand("tap", tap.try_clone()?));
                }
                let vhost = kernel_backends(taps.len()).into_iter();
                let vhost: Vec<String> = vhost.map(|fd| hand("vhost", fd)).collect();
                let mut netdev = json!({"type": "tap", "id": id, "fds": queues.join(":"),
                                        "vhost": !vhost.is_empty()});
                if !vhost.is_empty() {
                    netdev["vhostfds"] = vhost.join(":").into();
                }
                (None, netdev)
            }
            NicBackend::Stream(stream) => {
                let name = hand("stream", stream.try_clone()?);
                let netdev = json!({"type": "stream", "id": id, "server": false,
                                    "addr": {"type": "fd", "str": name}});
                (None, netdev)
            }
            NicBackend::VhostUser { socket, queues } => {
                is_socket(socket)?;
                let path = socket.to_str().ok_or(io::ErrorKind::InvalidInput)?;
                let backend = json!({"type": "socket", "data": {"server": false,
                                     "addr": {"type": "unix", "data": {"path": path}}}});
                let chardev = json!({"id": names.chardev, "backend": backend});
                let netdev = json!({"type": "vhost-user", "id": id,
                                    "chardev": names.chardev, "queues": queues});
                (Some(chardev), netdev)
            }
        };
        Ok(Self {
            handed,
            chardev,
            netdev,
        })
    }
}

/// What makes the card.
fn card(nic: &NicConfig, names: &Names, port: u32) -> Value {
    let queues = nic.backend.queues();
    json!({
        "driver": Bus::Pci.device("virtio-net"),
        "id": names.device,
        "netdev": names.netdev,
        "mac": Mac(nic.mac).to_string(),
        "host_mtu": nic.mtu,
        "rx_queue_size": RECEIVE_RING,
        "mq": queues > 1,
        "vectors": 2 * queues + 2,
        "romfile": "",
        "bus": RootPort::name(port),
    })
}

impl QemuVm {
    async fn add_nic(&self, nic: &NicConfig, names: &Names, port: u32) -> Result<()> {
        let told = Told::of(&nic.backend, names).map_err(|source| Error::Host {
            operation: "reach what a network device is to be connected to".to_owned(),
            source,
        })?;
        let mut known = Vec::new();
        for (name, fd) in told.handed {
            known.push(name.clone());
            if let Err(error) = self.hand(PHASE, &name, fd).await {
                self.forget_descriptors(&known).await;
                return Err(error);
            }
        }
        if let Some(chardev) = told.chardev {
            let added = self.ask(PHASE, "chardev-add", Some(chardev)).await;
            if added.is_err() {
                self.forget_descriptors(&known).await;
                return added.map(drop);
            }
        }
        let added = self.ask(PHASE, "netdev_add", Some(told.netdev)).await;
        if added.is_err() {
            self.remove_chardev(nic, names).await?;
            self.forget_descriptors(&known).await;
            return added.map(drop);
        }
        self.monitor().forget_device(&names.device);
        let card = card(nic, names, port);
        let added = self.ask(PHASE, "device_add", Some(card)).await;
        if added.is_err() {
            self.remove_backend(nic, names).await?;
        }
        added.map(drop)
    }

    /// Has QEMU close what it has not made use of; it may have.
    async fn forget_descriptors(&self, names: &[String]) {
        for name in names {
            let arguments = Some(json!({"fdname": name}));
            if let Err(error) = self.ask(PHASE, "closefd", arguments).await {
                log::debug!(error:%; "a descriptor is not QEMU's any more");
            }
        }
    }

    async fn remove_backend(&self, nic: &NicConfig, names: &Names) -> Result<()> {
        let arguments = Some(json!({"id": names.netdev}));
        self.ask(
            "letting go of a network device's back end",
            "netdev_del",
            arguments,
        )
        .await?;
        self.remove_chardev(nic, names).await
    }

    async fn remove_chardev(&self, nic: &NicConfig, names: &Names) -> Result<()> {
        if !matches!(nic.backend, NicBackend::VhostUser { .. }) {
            return Ok(());
        }
        let arguments = Some(json!({"id": names.chardev}));
        self.ask(
            "letting go of a network device's socket",
            "chardev-remove",
            arguments,
        )
        .await
        .map(drop)
    }
}

#[async_trait]
impl NicPlug for QemuVm {
    async fn attach(&self, nic: NicConfig) -> Result<()> {
        self.must_run("attach a network device")?;
        if let Some(fault) = nic.fault() {
            return Err(Error::InvalidConfig {
                field: "network device",
                reason: fault,
            });
        }
        // Held to the end, so that a dropped future frees nothing that is used.
        let mut nics = self.nics_attached().await;
        let mac = Mac(nic.mac).to_string();
        let port = nics.ports.take(&mac)?;
        let added = self.add_nic(&nic, &Names::of(port), port).await;
        match added {
            Ok(()) => drop(nics.configs.insert(mac, nic)),
            Err(_) => nics.ports.free(&mac),
        }
        added
    }

    async fn detach(&self, mac: [u8; 6]) -> Result<()> {
        self.must_run("detach a network device")?;
        let mut nics = self.nics_attached().await;
        let mac = Mac(mac).to_string();
        let names = Names::of(nics.ports.port_of(&mac)?);
        if !self.unplug(&names.device, DETACH).await? {
            return Err(Error::Timeout {
                phase: "detaching a network device",
                deadline: DETACH,
                console_tail: self.console_tail(),
            });
        }
        if let Some(nic) = nics.configs.remove(&mac) {
            self.remove_backend(&nic, &names).await?;
        }
        nics.ports.free(&mac);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        (a.into(), b.into())
    }

    #[test]
    fn each_queue_is_handed_over_under_a_name_that_is_no_number() {
        let (a, b) = pair();
        let backend = NicBackend::Tap(vec![Arc::new(a), Arc::new(b)]);
        let told = Told::of(&backend, &Names::of(4)).unwrap();
        let fds = told.netdev["fds"].as_str().unwrap();
        assert_eq!(fds, "tap-plugged-net4-0:tap-plugged-net4-1");
        assert!(told.handed.len() >= 2);
        let nic = NicConfig::new([2, 0, 0, 0, 0, 7], 1500, backend);
        let card = card(&nic, &Names::of(4), 4);
        assert_eq!((&card["mq"], &card["vectors"]), (&json!(true), &json!(6)));
        assert_eq!(
            (&card["bus"], &card["mac"]),
            (&json!("port4"), &json!("02:00:00:00:00:07"))
        );
    }

    #[test]
    fn a_vhost_user_back_end_has_a_character_device() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let backend = NicBackend::VhostUser {
            socket: socket.clone(),
            queues: 2,
        };
        assert!(Told::of(&backend, &Names::of(0)).is_err(), "nobody listens");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let told = Told::of(&backend, &Names::of(0)).unwrap();
        assert_eq!(told.netdev["chardev"], told.chardev.unwrap()["id"]);
        assert_eq!(told.netdev["queues"], 2);
    }
}
