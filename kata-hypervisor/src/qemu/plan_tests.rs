use super::*;
use crate::config::{Devices, MachineSize, MemorySize};
use crate::kernel::Format;
use crate::nic::{NicBackend, NicConfig};
use crate::probe::Probe;
use std::time::Duration;

fn facts() -> Facts {
    Facts {
        probe: Probe::default(),
        binary: "/q".into(),
        acceleration: Acceleration::Kvm,
        has_microvm: true,
        has_sandbox: true,
        tsc_khz: None,
        knowledge: None,
    }
}

fn kernel() -> KernelTraits {
    KernelTraits {
        format: Format::Elf,
        finds_announced_devices: true,
    }
}

fn config() -> VmConfig {
    let memory = MemorySize::mib(64);
    VmConfig {
        id: "vm".to_owned(),
        run_dir: "/r".into(),
        size: MachineSize {
            vcpus: 1,
            max_vcpus: 1,
            memory,
            max_memory: memory,
        },
        kernel: "/k".into(),
        initramfs: Some("/i".into()),
        command_line: ["quiet"].into_iter().collect(),
        devices: Devices::default(),
        cgroup: Vec::new(),
        start_deadline: Duration::from_secs(1),
    }
}

fn connections() -> Connections {
    Connections {
        monitor: 9,
        vsock: Some(10),
        filesystems: vec![("kata".to_owned(), 11)],
        nics: Vec::new(),
    }
}

fn args(facts: &Facts, config: &VmConfig, settings: &Settings) -> Vec<String> {
    let plan = Plan::new(settings, facts, kernel(), config);
    let args = plan.to_args(config, &connections());
    args.into_iter()
        .map(|arg| arg.into_string().unwrap())
        .collect()
}

fn position(args: &[String], word: &str) -> usize {
    args.iter()
        .position(|arg| arg.contains(word))
        .unwrap_or_else(|| panic!("{word} in {args:?}"))
}

#[test]
fn a_chardev_comes_before_the_device_that_names_it() {
    let args = args(&facts(), &config(), &Settings::default());
    assert!(position(&args, "socket,id=vsock") < position(&args, "vhost-user-vsock"));
    assert!(position(&args, "socket,id=fs0") < position(&args, "vhost-user-fs"));
    assert!(position(&args, "id=qmp,fd=9") < position(&args, "chardev=qmp"));
}

#[test]
fn the_filter_is_on_where_there_is_one() {
    let with = args(&facts(), &config(), &Settings::default());
    position(&with, "obsolete=deny");
    let mut facts = facts();
    facts.has_sandbox = false;
    let without = args(&facts, &config(), &Settings::default());
    assert!(!without.contains(&"-sandbox".to_owned()));
}

#[test]
fn extra_arguments_come_last() {
    let settings = Settings {
        extra_args: vec!["-foo".into()],
        ..Settings::default()
    };
    assert_eq!(args(&facts(), &config(), &settings).last().unwrap(), "-foo");
}

#[test]
fn a_panic_ends_the_machine_unless_the_caller_says_otherwise() {
    let mut config = config();
    assert!(
        Plan::new(&Settings::default(), &facts(), kernel(), &config)
            .command_line()
            .contains("panic=-1")
    );
    config.command_line.push("panic=30");
    let line = Plan::new(&Settings::default(), &facts(), kernel(), &config)
        .command_line()
        .to_owned();
    assert!(
        line.contains("panic=30") && !line.contains("panic=-1"),
        "{line}"
    );
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_microvm_is_wholly_described() {
    let args = args(&facts(), &config(), &Settings::default()).join(" ");
    assert_eq!(
        args,
        "-nodefaults -no-user-config -display none -no-reboot -S \
         -name guest=vm -machine microvm,acpi=off,pit=on,pic=on,rtc=on,isa-serial=on,auto-kernel-cmdline=on,\
         memory-backend=mem -global virtio-mmio.force-legacy=false -accel kvm -cpu host -smp 1 \
         -m 67108864B -object memory-backend-memfd,id=mem,size=67108864B,share=on \
         -chardev socket,id=qmp,fd=9 -mon chardev=qmp,mode=control \
         -chardev stdio,id=console,signal=off -serial chardev:console \
         -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny \
         -chardev socket,id=vsock,fd=10 -device vhost-user-vsock-device,chardev=vsock \
         -chardev socket,id=fs0,fd=11 -device vhost-user-fs-device,chardev=fs0,tag=kata \
         -kernel /k -initrd /i -append panic=-1 console=ttyS0 acpi=off reboot=t quiet"
    );
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_kernel_that_would_not_find_a_microvms_devices_gets_a_q35() {
    let blind = KernelTraits {
        finds_announced_devices: false,
        ..kernel()
    };
    let plan = Plan::new(&Settings::default(), &facts(), blind, &config());
    assert_eq!(plan.machine, Machine::Q35);
}

#[test]
fn network_devices_follow_their_back_ends() {
    let mut config = config();
    let nic = |last, backend| NicConfig::new([2, 0, 0, 0, 0, last], 1500, backend);
    let socket = "/s".into();
    config.devices.nics = vec![
        nic(1, NicBackend::Tap(Vec::new())),
        nic(2, NicBackend::VhostUser { socket, queues: 2 }),
    ];
    let mut connections = connections();
    let tap = Netdev::Tap {
        queues: vec![20, 21],
        vhost: vec![],
    };
    connections.nics = vec![
        NicConnection::Netdev(tap),
        NicConnection::VhostUser("/s".into(), 2),
    ];
    let plan = Plan::new(&Settings::default(), &facts(), kernel(), &config);
    let args: Vec<String> = plan
        .to_args(&config, &connections)
        .into_iter()
        .map(|arg| arg.into_string().unwrap())
        .collect();
    assert!(position(&args, "id=vhost-net1,path=/s") < position(&args, "chardev=vhost-net1"));
    assert!(position(&args, "fds=20:21") < position(&args, "mac=02:00:00:00:00:01"));
    assert!(position(&args, "netdev=net0") < position(&args, "netdev=net1"));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_machine_with_more_devices_than_a_microvm_has_room_for_is_a_q35() {
    let mut config = config();
    let nic = |last| {
        let socket = "/s".into();
        let backend = NicBackend::VhostUser { socket, queues: 1 };
        NicConfig::new([2, 0, 0, 0, 0, last], 1500, backend)
    };
    config.devices.nics = (0..8).map(nic).collect();
    let machine =
        |config: &VmConfig| Plan::new(&Settings::default(), &facts(), kernel(), config).machine;
    assert_eq!(machine(&config), Machine::Microvm);
    config.devices.nics.push(nic(8));
    assert_eq!(machine(&config), Machine::Q35);
}
