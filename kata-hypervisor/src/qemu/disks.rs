//! Disks that come and go while the machine runs.
//!
//! A disk is a block node and the device in front of it, in one of the spare
//! ports. The device goes when the guest lets go of it; then its node, and with
//! it the file.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use super::args::{RootPort, driver, node};
use super::vm::QemuVm;
use crate::disk::DiskConfig;
use crate::error::{Error, Result};
use crate::medium::Medium;
use crate::validate;
use crate::vm::DiskPlug;

/// How long the guest may take to let go of a disk. PCI Express gives a person
/// five seconds to change their mind.
const DETACH: Duration = Duration::from_secs(30);

impl QemuVm {
    async fn add_disk(&self, disk: &DiskConfig, medium: Medium, port: u32) -> Result<()> {
        const PHASE: &str = "attaching a disk";
        let path = disk.path.to_str().ok_or_else(|| Error::InvalidConfig {
            field: "disk",
            reason: format!("its path {} is not UTF-8", disk.path.display()),
        })?;
        let block = json!({
            "driver": "raw",
            "node-name": node(&disk.id),
            "read-only": disk.read_only,
            "discard": "unmap",
            "file": {"driver": driver(medium), "filename": path},
        });
        self.ask(PHASE, "blockdev-add", Some(block)).await?;
        self.monitor().forget_device(&disk.id);
        let device = json!({
            "driver": "virtio-blk-pci",
            "id": disk.id,
            "drive": node(&disk.id),
            "serial": disk.id,
            "bus": RootPort::name(port),
        });
        let added = self.ask(PHASE, "device_add", Some(device)).await;
        if added.is_err() {
            self.remove_node(&disk.id).await?;
        }
        added.map(drop)
    }

    async fn remove_node(&self, id: &str) -> Result<()> {
        let arguments = Some(json!({"node-name": node(id)}));
        self.ask("letting go of a disk's file", "blockdev-del", arguments)
            .await
            .map(drop)
    }
}

#[async_trait]
impl DiskPlug for QemuVm {
    async fn attach(&self, disk: DiskConfig) -> Result<()> {
        self.must_run("attach a disk")?;
        let (disk, medium) = look_at(disk).await?;
        // Held to the end, so that a dropped future frees nothing that is used.
        let mut ports = self.ports().await;
        let port = ports.take(&disk.id)?;
        let added = self.add_disk(&disk, medium, port).await;
        if added.is_err() {
            ports.free(&disk.id);
        }
        added
    }

    async fn detach(&self, id: &str) -> Result<()> {
        self.must_run("detach a disk")?;
        let mut ports = self.ports().await;
        ports.port_of(id)?;
        if !self.unplug(id, DETACH).await? {
            return Err(Error::Timeout {
                phase: "detaching a disk",
                deadline: DETACH,
                console_tail: crate::vm::Vm::console_tail(self),
            });
        }
        self.remove_node(id).await?;
        ports.free(id);
        Ok(())
    }
}

/// Validates on a thread that may block: it looks at the file.
async fn look_at(disk: DiskConfig) -> Result<(DiskConfig, Medium)> {
    let looked = tokio::task::spawn_blocking(move || {
        let medium = validate::disk(&disk)?;
        Ok((disk, medium))
    });
    looked.await.unwrap_or_else(|error| {
        Err(Error::Host {
            operation: "look at a disk".to_owned(),
            source: io::Error::other(error),
        })
    })
}
