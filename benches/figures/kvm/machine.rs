//! A machine of one processor with all of a sandbox's devices: a disk, a network
//! card, vsock, shared files, entropy.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kata_devices::fs::{FsConfig, SharedTree};
use kata_devices::vsock::VsockConfig;
use kata_sandbox::MemorySize;
use kata_sandbox::hypervisor::{
    Devices, DiskConfig, KernelCommandLine, MachineSize, NicBackend, NicConfig, VmConfig,
};

/// Of every machine's network card.
pub(super) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const MTU: u32 = 1500;

/// What machines need of the host while they live.
pub(super) struct Place {
    directory: PathBuf,
    kernel: PathBuf,
    mebibytes: u64,
    /// The other ends of the network cards.
    wires: Vec<UnixStream>,
    made: usize,
}

impl Place {
    /// A place below `directory` for machines that run `kernel`.
    pub(super) fn new(directory: &Path, kernel: &Path, mebibytes: u64) -> io::Result<Self> {
        let directory = directory.to_owned();
        std::fs::create_dir_all(&directory)?;
        Ok(Self {
            directory,
            kernel: kernel.to_owned(),
            mebibytes,
            wires: Vec::new(),
            made: 0,
        })
    }

    /// One more machine, with no device but what is put there.
    pub(super) fn bare(&mut self) -> io::Result<VmConfig> {
        self.made += 1;
        let run_dir = self.directory.join(self.made.to_string());
        std::fs::create_dir(&run_dir)?;
        let memory = MemorySize::mib(self.mebibytes);
        Ok(VmConfig {
            id: format!("bench-{}", self.made),
            run_dir,
            size: MachineSize {
                vcpus: 1,
                max_vcpus: 1,
                memory,
                max_memory: memory,
            },
            kernel: self.kernel.clone(),
            initramfs: None,
            command_line: KernelCommandLine::new(),
            devices: Devices::default(),
            cgroup: Vec::new(),
            start_deadline: Duration::from_secs(60),
        })
    }

    /// One more machine, with all devices.
    pub(super) fn machine(&mut self) -> io::Result<VmConfig> {
        let mut config = self.bare()?;
        let run_dir = config.run_dir.clone();
        let (wire, port) = UnixStream::pair()?;
        self.wires.push(wire);
        let nic = NicBackend::Stream(Arc::new(port.into()));
        let devices = &mut config.devices;
        devices.vsock = Some(VsockConfig {
            guest_cid: 3,
            socket: run_dir.join("vsock"),
        });
        devices.filesystems.push(FsConfig {
            tag: "shared".to_owned(),
            tree: SharedTree::new().map_err(io::Error::other)?,
        });
        devices.disks.push(disk(&run_dir, 64)?);
        devices.nics.push(NicConfig::new(MAC, MTU, nic));
        devices.rng = true;
        Ok(config)
    }
}

/// A new disk in a machine's directory.
pub(super) fn disk(run_dir: &Path, mebibytes: u64) -> io::Result<DiskConfig> {
    let path = run_dir.join("disk");
    File::create(&path)?.set_len(mebibytes << 20)?;
    Ok(DiskConfig {
        id: "disk".to_owned(),
        path,
        read_only: false,
    })
}
