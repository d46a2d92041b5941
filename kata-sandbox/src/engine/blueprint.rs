//! What a sandbox is to be: the builder's settings, as the engine takes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kata_devices::fs::{FsConfig, SharedTree};
use kata_devices::vsock::VsockConfig;
use kata_hypervisor::{Devices, DiskConfig, KernelCommandLine, MachineSize, VmConfig};
use kata_network::Network;
use serde::{Deserialize, Serialize};

use crate::builder::OnDrop;
use crate::cgroup::HostLimits;
use crate::image::Boot;

/// The tag by which the guest mounts the shared directories.
pub(crate) const SHARE_TAG: &str = "kataShared";
/// The guest's context id; each machine has its own vsock, so all have one.
const GUEST_CID: u64 = 3;
/// The serial number of the disk that the guest itself is on.
const ROOT_DISK: &str = "kata-root";
/// The vsock device's socket, in the machine's directory.
const VSOCK: &str = "vsock";

/// What a sandbox is to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Blueprint {
    pub(crate) id: String,
    pub(crate) hypervisor: Option<String>,
    pub(crate) size: MachineSize,
    /// Told apart from the rest where it goes to another process.
    #[serde(skip, default = "no_network")]
    pub(crate) network: Arc<dyn Network>,
    pub(crate) hostname: Option<String>,
    pub(crate) name_servers: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) kernel_parameters: Vec<String>,
    pub(crate) boot_timeout: Duration,
    pub(crate) call_timeout: Duration,
    pub(crate) shared_process_ids: bool,
    pub(crate) on_drop: OnDrop,
    /// The control group of what runs on the host, as specifications name it.
    pub(crate) cgroup: Option<String>,
    /// How much they may use there.
    pub(crate) host_limits: HostLimits,
    /// Disks that are there from the start.
    pub(crate) disks: Vec<DiskConfig>,
    /// How many more may come.
    pub(crate) spare_disks: u32,
    /// How many network devices may come.
    pub(crate) spare_interfaces: u32,
}

fn no_network() -> Arc<dyn Network> {
    Arc::new(kata_network::None)
}

impl Blueprint {
    /// The guest's kernel command line, but for what the backend adds.
    pub(crate) fn command_line(&self, boot: &Boot) -> KernelCommandLine {
        // A foreign agent has the stdio port only when it is told to.
        let foreign = format!("agent.passfd_listener_port={}", kata_protocol::port::STDIO);
        let foreign = (!boot.announces).then_some(foreign);
        let words = std::iter::once("quiet".to_owned());
        words
            .chain(boot.kernel_parameters.iter().cloned())
            .chain(foreign)
            .chain(self.kernel_parameters.iter().cloned())
            .collect()
    }

    /// The vsock device's socket, below the machine's directory.
    pub(crate) fn vsock_socket(run_dir: &Path) -> PathBuf {
        run_dir.join(VSOCK)
    }

    /// Where the agent's announcement arrives.
    pub(crate) fn announcement_socket(run_dir: &Path) -> PathBuf {
        run_dir.join(format!("{VSOCK}_{}", kata_protocol::port::AGENT))
    }

    /// The machine, to be made in `run_dir` and to serve `tree`.
    pub(crate) fn machine(&self, boot: &Boot, run_dir: PathBuf, tree: &SharedTree) -> VmConfig {
        let mut devices = Devices::default();
        let socket = Self::vsock_socket(&run_dir);
        devices.vsock = Some(VsockConfig {
            guest_cid: GUEST_CID,
            socket,
        });
        devices.filesystems.push(FsConfig {
            tag: SHARE_TAG.to_owned(),
            tree: tree.clone(),
        });
        devices.rng = true;
        // The guest's own root is the first disk that it finds.
        devices
            .disks
            .extend(boot.disk.iter().map(|path| DiskConfig {
                id: ROOT_DISK.to_owned(),
                path: path.clone(),
                read_only: true,
            }));
        devices.disks.extend(self.disks.iter().cloned());
        devices.spare_disks = self.spare_disks;
        devices.spare_nics = self.spare_interfaces;
        VmConfig {
            id: self.id.clone(),
            run_dir,
            size: self.size,
            kernel: boot.kernel.clone(),
            initramfs: boot.initramfs.clone(),
            command_line: self.command_line(boot),
            devices,
            cgroup: Vec::new(),
            start_deadline: self.boot_timeout,
        }
    }

    /// The host name in the guest: the id, cut to what the kernel takes.
    pub(crate) fn guest_hostname(&self) -> String {
        const LONGEST: usize = 63;
        let name = self.hostname.as_ref().unwrap_or(&self.id);
        name.chars().take(LONGEST).collect()
    }
}
