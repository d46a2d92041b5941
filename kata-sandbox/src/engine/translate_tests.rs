//! What the guest is told of a container.

use kata_devices::fs::SharedTree;

use super::*;
use crate::{Mount, Rootfs};

fn translated(spec: &ContainerSpec) -> Result<Translated> {
    let shares = Shares::new(SharedTree::new().unwrap());
    translate(
        &shares,
        "c1",
        spec,
        &Context::new("create container", "s/c1"),
    )
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn the_root_file_system_is_a_share_in_the_guest() {
    let root = directory();
    let made = translated(&ContainerSpec::new(Rootfs::Dir(root.path().into()))).unwrap();
    let path = made
        .spec
        .root()
        .as_ref()
        .unwrap()
        .path()
        .display()
        .to_string();
    assert_eq!(path, "/run/kata-containers/shared/containers/c1-0");
    assert_eq!((made.shares.len(), made.storages.len()), (1, 0));
}

#[test]
fn a_bind_mount_is_shared_and_its_source_rewritten() {
    let (root, data) = (directory(), directory());
    std::fs::write(data.path().join("file"), "x").unwrap();
    let spec = ContainerSpec::new(Rootfs::Dir(root.path().into()))
        .mount(Mount::share(data.path(), "/data").read_only())
        .mount(Mount::share(data.path().join("file"), "/etc/file"));
    let made = translated(&spec).unwrap();
    let mounts = made.spec.mounts().as_ref().unwrap();
    let source = |mount: &oci::Mount| mount.source().as_ref().unwrap().display().to_string();
    let [dir, file] = &mounts[mounts.len() - 2..] else {
        panic!("{mounts:?}")
    };
    assert_eq!(source(dir), "/run/kata-containers/shared/containers/c1-1");
    assert_eq!(source(file), "/run/kata-containers/shared/containers/c1-2");
}

#[test]
fn relative_sources_begin_at_the_bundle() {
    let bundle = directory();
    for part in ["rootfs", "data"] {
        std::fs::create_dir(bundle.path().join(part)).unwrap();
    }
    let spec = ContainerSpec::new(Rootfs::Dir("/".into()))
        .mount(Mount::share("data", "/data"))
        .oci()
        .clone();
    let rootfs = Rootfs::Dir(bundle.path().join("rootfs"));
    let made = translated(&ContainerSpec::from_oci(bundle.path(), spec, rootfs)).unwrap();
    assert_eq!(made.shares.len(), 2);
}

#[test]
fn shared_memory_stays_in_the_guest() {
    let root = directory();
    let spec = ContainerSpec::new(Rootfs::Dir(root.path().into()))
        .mount(Mount::share("/nowhere/shm", "/dev/shm"));
    let made = translated(&spec).unwrap();
    let last = made.spec.mounts().as_ref().unwrap().last().unwrap().clone();
    assert_eq!(last.source().as_deref(), Some(Path::new(SHM)));
}

#[test]
fn namespaces_are_the_containers_own_and_the_network_the_sandboxs() {
    let root = directory();
    let spec = ContainerSpec::new(Rootfs::Dir(root.path().into())).edit_oci(|spec| {
        let namespaces = r#"[{"type": "network", "path": "/run/netns/x"}, {"type": "pid", "path": "/proc/1/ns/pid"}]"#;
        let namespaces = serde_json::from_str(namespaces).unwrap();
        spec.linux_mut().as_mut().unwrap().set_namespaces(Some(namespaces));
    });
    let made = translated(&spec).unwrap();
    let linux = made.spec.linux().as_ref().unwrap();
    let [only] = &linux.namespaces().as_ref().unwrap()[..] else {
        panic!("{linux:?}")
    };
    assert_eq!(
        (only.typ(), only.path()),
        (oci::LinuxNamespaceType::Pid, &None)
    );
    assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/kata/c1")));
}

#[test]
fn an_overlay_is_put_together_in_the_guest() {
    let (top, bottom, upper) = (directory(), directory(), directory());
    let lower = vec![top.path().to_owned(), bottom.path().to_owned()];
    let rootfs = Rootfs::Overlay {
        lower,
        upper: Some(upper.path().to_owned()),
    };
    let made = translated(&ContainerSpec::new(rootfs)).unwrap();
    let [overlay] = &made.storages[..] else {
        panic!("{:?}", made.storages)
    };
    let shared = "/run/kata-containers/shared/containers";
    assert_eq!(
        overlay.options,
        [
            format!("lowerdir={shared}/c1-0:{shared}/c1-1"),
            format!("upperdir={shared}/c1-2/fs"),
            format!("workdir={shared}/c1-2/work"),
        ]
    );
    assert!(upper.path().join("work").is_dir());
    assert_eq!(
        overlay.mount_point,
        made.spec.root().as_ref().unwrap().path().to_str().unwrap()
    );
}

#[test]
fn an_overlay_without_an_upper_directory_writes_to_the_guests_memory() {
    let lower = directory();
    let rootfs = Rootfs::Overlay {
        lower: vec![lower.path().to_owned()],
        upper: None,
    };
    let made = translated(&ContainerSpec::new(rootfs)).unwrap();
    let drivers: Vec<_> = made
        .storages
        .iter()
        .map(|storage| storage.driver.as_str())
        .collect();
    assert_eq!(drivers, ["ephemeral", "overlayfs"]);
    assert!(made.storages[1].options[1].starts_with("upperdir=/run/kata-containers/overlays/"));
}

#[test]
fn what_cannot_be_shared_is_refused_by_name() {
    let root = directory();
    let good = || ContainerSpec::new(Rootfs::Dir(root.path().into()));
    let fault = |spec: ContainerSpec| translated(&spec).unwrap_err();
    let file = root.path().join("file");
    std::fs::write(&file, "").unwrap();
    let socket = root.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();

    let missing = fault(ContainerSpec::new(Rootfs::Dir("/nowhere/at/all".into())));
    assert_eq!(missing.kind(), ErrorKind::InvalidConfig);
    assert!(
        missing
            .to_string()
            .contains("the root file system is /nowhere/at/all"),
        "{missing}"
    );
    let relative = fault(ContainerSpec::new(Rootfs::Dir("rootfs".into())));
    assert!(relative.to_string().contains("not absolute"), "{relative}");
    let not_a_directory = fault(ContainerSpec::new(Rootfs::Dir(file)));
    assert!(
        not_a_directory.to_string().contains("a file"),
        "{not_a_directory}"
    );
    let empty = fault(ContainerSpec::new(Rootfs::Overlay {
        lower: vec![],
        upper: None,
    }));
    assert_eq!(empty.kind(), ErrorKind::InvalidConfig);
    let block = Rootfs::Block {
        path: "/nowhere/disk".into(),
        fstype: "ext4".into(),
    };
    let block = fault(ContainerSpec::new(block));
    assert!(
        block
            .to_string()
            .contains("the root file system is /nowhere/disk"),
        "{block}"
    );
    let mount = fault(good().mount(Mount::share("/nowhere", "/data")));
    assert!(
        mount.to_string().contains("mounted at /data, is /nowhere"),
        "{mount}"
    );
    let socket = fault(good().mount(Mount::share(socket, "/socket")));
    assert_eq!(socket.kind(), ErrorKind::Unsupported);
    assert!(socket.to_string().contains("a socket"), "{socket}");
    let device = fault(good().mount(Mount::share("/dev/null", "/null")));
    assert!(device.to_string().contains("a device"), "{device}");
}

#[test]
fn a_root_file_system_on_a_disk_is_mounted_by_the_guest() {
    let disk = tempfile::NamedTempFile::new().unwrap();
    let rootfs = Rootfs::Block {
        path: disk.path().to_owned(),
        fstype: "ext4".into(),
    };
    let made = translated(&ContainerSpec::new(rootfs).read_only_root()).unwrap();
    let root = made.root_disk.unwrap();
    assert!(root.disk.read_only);
    assert_eq!(root.storage.fstype, "ext4");
    assert_eq!(root.storage.options, ["ro"]);
    let path = made.spec.root().as_ref().unwrap().path().clone();
    assert_eq!(path, Path::new(&root.storage.mount_point));
    assert!(made.shares.is_empty());
}

#[test]
fn what_a_kernel_says_of_itself_is_the_guests() {
    let root = directory();
    let spec = ContainerSpec::new(Rootfs::Dir(root.path().into()))
        .mount(Mount::share("/sys", "/sys").read_only())
        .mount(Mount::share("/proc", "/host/proc"))
        .mount(Mount::share("/sys/fs/cgroup", "/sys/fs/cgroup"));
    let made = translated(&spec).unwrap();
    let mounts = made.spec.mounts().as_ref().unwrap();
    let kinds: Vec<_> = mounts[mounts.len() - 3..]
        .iter()
        .map(|mount| mount.typ().clone().unwrap())
        .collect();
    assert_eq!(kinds, ["sysfs", "proc", "cgroup"]);
    let sys = &mounts[mounts.len() - 3];
    assert_eq!(sys.options().as_ref().unwrap(), &["ro"]);
}

#[test]
fn labels_of_the_hosts_security_modules_stay_on_the_host() {
    let root = directory();
    let spec = ContainerSpec::new(Rootfs::Dir(root.path().into())).edit_oci(|spec| {
        let process = spec.process_mut().as_mut().unwrap();
        process.set_apparmor_profile(Some("docker-default".into()));
        process.set_selinux_label(Some("system_u:system_r:container_t:s0".into()));
        let linux = spec.linux_mut().as_mut().unwrap();
        linux.set_mount_label(Some("system_u:object_r:container_file_t:s0".into()));
    });
    let made = translated(&spec).unwrap();
    let process = made.spec.process().as_ref().unwrap();
    assert_eq!(process.apparmor_profile(), &None);
    assert_eq!(process.selinux_label(), &None);
    assert_eq!(made.spec.linux().as_ref().unwrap().mount_label(), &None);
}
