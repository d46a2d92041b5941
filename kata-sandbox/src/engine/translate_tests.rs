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
        path: "/dev/sda".into(),
        fstype: "ext4".into(),
    };
    assert_eq!(
        fault(ContainerSpec::new(block)).kind(),
        ErrorKind::Unsupported
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
