use super::*;
use crate::config::{Devices, KernelCommandLine};
use crate::nic::NicBackend;
use kata_devices::fs::{FsConfig, SharedTree};
use kata_devices::vsock::VsockConfig;
use std::time::Duration;

const RULES: Rules = Rules {
    backend: "any",
    supported: true,
    kernels: &[Format::Elf],
    longest_command_line: 2047,
};

fn config(dir: &Path) -> VmConfig {
    let memory = MemorySize::mib(64);
    VmConfig {
        id: "vm".to_owned(),
        run_dir: dir.to_owned(),
        size: MachineSize {
            vcpus: 1,
            max_vcpus: 1,
            memory,
            max_memory: memory,
        },
        kernel: dir.join("no-kernel"),
        initramfs: None,
        command_line: KernelCommandLine::new(),
        devices: Devices::default(),
        cgroup: Vec::new(),
        start_deadline: Duration::from_secs(1),
    }
}

/// The field that is blamed when `change` was made to a right description.
fn blamed(change: impl FnOnce(&mut VmConfig)) -> &'static str {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    change(&mut config);
    match validate(&config, &Known::default(), &RULES).unwrap_err() {
        Error::InvalidConfig { field, .. } => field,
        Error::File { what, .. } => what,
        Error::Device { device, .. } => device,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_right_comes_as_far_as_the_missing_kernel() {
    assert_eq!(blamed(|_| ()), "kernel");
}

#[test]
fn a_size_that_makes_no_machine_is_blamed() {
    assert_eq!(blamed(|c| c.size.vcpus = 0), "vcpus");
    assert_eq!(blamed(|c| c.size.vcpus = 256), "vcpus");
    assert_eq!(blamed(|c| c.size.max_vcpus = 0), "max_vcpus");
    assert_eq!(blamed(|c| c.size.memory = MemorySize::mib(1)), "memory");
    assert_eq!(
        blamed(|c| c.size.memory = MemorySize::bytes((64 << 20) + 1)),
        "memory"
    );
    assert_eq!(
        blamed(|c| c.size.max_memory = MemorySize::mib(32)),
        "max_memory"
    );
}

#[test]
fn network_devices_that_cannot_be_are_blamed() {
    let nic = |mac, mtu| {
        let backend = NicBackend::VhostUser {
            socket: "/s".into(),
            queues: 1,
        };
        NicConfig::new(mac, mtu, backend)
    };
    let mac = [2, 0, 0, 0, 0, 1];
    assert_eq!(
        blamed(|c| c.devices.nics = vec![nic(mac, 1500), nic(mac, 1500)]),
        "nics"
    );
    assert_eq!(blamed(|c| c.devices.nics.push(nic(mac, 0))), "nics");
    let other = [2, 0, 0, 0, 0, 2];
    assert_eq!(
        blamed(|c| c.devices.nics = vec![nic(mac, 1500), nic(other, 1500)]),
        "kernel"
    );
}

#[test]
fn an_id_that_would_garble_a_log_is_blamed() {
    assert_eq!(blamed(|c| c.id.clear()), "id");
    assert_eq!(blamed(|c| c.id.push('\n')), "id");
}

#[test]
fn a_run_directory_must_be_there_and_absolute() {
    assert_eq!(blamed(|c| c.run_dir.push("none")), "run directory");
    assert_eq!(blamed(|c| c.run_dir = ".".into()), "run_dir");
}

#[test]
fn devices_that_make_no_sense_are_blamed() {
    let vsock = |guest_cid| {
        let vsock = VsockConfig {
            guest_cid,
            socket: "/s".into(),
        };
        blamed(|c| c.devices.vsock = Some(vsock))
    };
    assert_eq!(vsock(2), "vsock");
    assert_eq!(vsock(3), "kernel");
    let tree = SharedTree::new().unwrap();
    let fs = |tag: &str| FsConfig {
        tag: tag.to_owned(),
        tree: tree.clone(),
    };
    assert_eq!(
        blamed(|c| c.devices.filesystems = vec![fs("")]),
        "virtio-fs"
    );
    assert_eq!(
        blamed(|c| c.devices.filesystems = vec![fs("a"), fs("a")]),
        "tag"
    );
    assert_eq!(
        blamed(|c| c.devices.filesystems = vec![fs("a"), fs("b")]),
        "kernel"
    );
}

#[test]
fn disks_that_make_no_sense_are_blamed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let disk = |id: &str, path: &Path| DiskConfig {
        id: id.to_owned(),
        path: path.to_owned(),
        read_only: true,
    };
    let one = disk("a", file.path());
    assert_eq!(blamed(|c| c.devices.disks = vec![one.clone()]), "kernel");
    assert_eq!(
        blamed(|c| c.devices.disks = vec![one.clone(), one.clone()]),
        "disk"
    );
    let same = disk("b", file.path());
    let both = |a: bool, b: bool| {
        let (mut one, mut same) = (one.clone(), same.clone());
        (one.read_only, same.read_only) = (a, b);
        blamed(|c| c.devices.disks = vec![one, same])
    };
    assert_eq!(both(true, true), "kernel");
    for (a, b) in [(true, false), (false, true), (false, false)] {
        assert_eq!(both(a, b), "disk");
    }
    let nowhere = disk("b", Path::new("/nowhere"));
    assert_eq!(blamed(|c| c.devices.disks = vec![nowhere]), "disk");
    let nameless = disk("", file.path());
    assert_eq!(blamed(|c| c.devices.disks = vec![nameless]), "disk");
    assert_eq!(blamed(|c| c.devices.spare_disks = 17), "spare_disks");
    let both = |c: &mut VmConfig| {
        c.devices.spare_disks = 9;
        c.devices.spare_nics = 8;
    };
    assert_eq!(blamed(both), "spare_nics");
    let grown = MemorySize::bytes((64 << 20) + (1 << 20));
    assert_eq!(blamed(|c| c.size.max_memory = grown), "max_memory");
}

#[test]
fn a_command_line_that_the_kernel_would_cut_is_blamed() {
    command_line(&"x".repeat(RULES.longest_command_line), &RULES).unwrap();
    assert!(command_line(&"x".repeat(RULES.longest_command_line + 1), &RULES).is_err());
    assert!(command_line("a\nb", &RULES).is_err());
}
