use super::*;
use crate::config::{Devices, KernelCommandLine};
use kata_devices::vsock::VsockConfig;
use std::time::Duration;

fn config(dir: &Path) -> VmConfig {
    let memory = MemorySize::mib(64);
    VmConfig {
        id: "vm".to_owned(),
        run_dir: dir.to_owned(),
        size: MachineSize { vcpus: 1, max_vcpus: 1, memory, max_memory: memory },
        kernel: dir.join("no-kernel"),
        initramfs: None,
        command_line: KernelCommandLine::new(),
        devices: Devices::default(),
        start_deadline: Duration::from_secs(1),
    }
}

/// The field that is blamed when `change` was made to a right description.
fn blamed(change: impl FnOnce(&mut VmConfig)) -> &'static str {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    change(&mut config);
    match validate(&config).unwrap_err() {
        Error::InvalidConfig { field, .. } => field,
        Error::File { what, .. } => what,
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
    assert_eq!(blamed(|c| c.size.memory = MemorySize::bytes((64 << 20) + 1)), "memory");
    assert_eq!(blamed(|c| c.size.max_memory = MemorySize::mib(32)), "max_memory");
}

#[test]
fn an_id_that_would_garble_a_log_is_blamed() {
    assert_eq!(blamed(|c| c.id.clear()), "id");
    assert_eq!(blamed(|c| c.id.push('\n')), "id");
}

#[test]
fn a_run_directory_must_be_there_absolute_and_short() {
    assert_eq!(blamed(|c| c.run_dir.push("none")), "run directory");
    assert_eq!(blamed(|c| c.run_dir = ".".into()), "run_dir");
    assert_eq!(
        blamed(|c| {
            c.run_dir.push("x".repeat(100));
            fs::create_dir(&c.run_dir).unwrap();
        }),
        "run_dir"
    );
}

#[test]
fn a_vsock_device_needs_a_free_id_and_a_short_socket() {
    let vsock = |guest_cid, socket: &str| {
        blamed(|c| c.devices.vsock = Some(VsockConfig { guest_cid, socket: socket.into() }))
    };
    assert_eq!(vsock(2, "/s"), "guest_cid");
    assert_eq!(vsock(u64::from(u32::MAX), "/s"), "guest_cid");
    assert_eq!(vsock(3, &"s".repeat(108)), "vsock socket");
    assert_eq!(vsock(3, "/s"), "kernel");
}

#[test]
fn a_command_line_that_the_kernel_would_cut_is_blamed() {
    command_line(&"x".repeat(arch::LONGEST_COMMAND_LINE)).unwrap();
    assert!(command_line(&"x".repeat(arch::LONGEST_COMMAND_LINE + 1)).is_err());
    assert!(command_line("a\nb").is_err());
}
