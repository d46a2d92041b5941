//! A server's life: it begins at once, ends promptly, and leaves nothing behind,
//! wherever its front end is.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use kata_devices::Error;
use kata_devices::fs::{FsConfig, SharedTree};
use kata_devices::vhost_user::{Ended, Server};
use kata_devices::vsock::VsockConfig;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost::VhostBackend;
use vhost::vhost_user::Frontend;

/// Much less than any deadline inside.
const PROMPT: Duration = Duration::from_secs(2);

fn vsock(dir: &Path) -> VsockConfig {
    VsockConfig {
        guest_cid: 3,
        socket: dir.join("vsock"),
    }
}

fn files() -> FsConfig {
    FsConfig {
        tag: "kataShared".into(),
        tree: SharedTree::new().unwrap(),
    }
}

/// One server of each kind, with their vhost-user sockets.
fn servers(dir: &Path) -> [(Server, std::path::PathBuf); 2] {
    let (a, b) = (dir.join("vsock-vhost"), dir.join("fs-vhost"));
    [
        (Server::vsock(&vsock(dir), &a).unwrap(), a),
        (Server::fs(&files(), &b).unwrap(), b),
    ]
}

fn wait_for_end(server: &Server) -> Option<Ended> {
    let mut bell = [PollFd::from_borrowed_fd(server.as_fd(), PollFlags::IN)];
    poll(
        &mut bell,
        Some(&Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        }),
    )
    .unwrap();
    server.ended()
}

fn ends_promptly(server: Server) {
    let began = Instant::now();
    drop(server);
    assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn sockets_are_there_at_once_and_gone_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let both = servers(dir.path());
    assert!(dir.path().join("vsock").exists());
    for (server, socket) in both {
        assert!(socket.exists());
        assert!(server.ended().is_none());
        ends_promptly(server);
        assert!(!socket.exists());
    }
    assert!(is_empty(dir.path()));
}

#[test]
fn a_second_front_end_finds_nobody() {
    let dir = tempfile::tempdir().unwrap();
    for (server, socket) in servers(dir.path()) {
        let front_end = Frontend::connect(&socket, 2).unwrap();
        front_end.set_owner().unwrap();
        front_end.get_features().unwrap();
        assert!(UnixStream::connect(&socket).is_err());
        assert!(!socket.exists());
        ends_promptly(server);
    }
}

#[test]
fn the_end_of_the_front_end_is_the_end_of_the_device() {
    let dir = tempfile::tempdir().unwrap();
    for (server, socket) in servers(dir.path()) {
        let front_end = Frontend::connect(&socket, 2).unwrap();
        front_end.get_features().unwrap();
        assert!(server.ended().is_none());
        drop(front_end);
        let ended = wait_for_end(&server).unwrap();
        assert!(matches!(ended, Ended::Disconnected), "{ended}");
        ends_promptly(server);
    }
    assert!(is_empty(dir.path()));
}

#[test]
fn half_a_message_does_not_hold_up_the_end() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let server = Server::fs_on(&files(), theirs).unwrap();
    ours.write_all(&[1, 0, 0, 0, 1]).unwrap();
    ends_promptly(server);
}

#[test]
fn a_front_end_that_speaks_nonsense_is_dropped_with_a_reason() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let server = Server::fs_on(&files(), theirs).unwrap();
    ours.write_all(&[0xff; 12]).unwrap();
    let ended = wait_for_end(&server).unwrap();
    assert!(matches!(ended, Ended::Failed { .. }), "{ended}");
    assert!(ended.to_string().contains("front end"), "{ended}");
    server.shutdown();
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    use vhost::VringConfigData;
    use vhost::vhost_user::{VhostUserFrontend, VhostUserProtocolFeatures};
    let (ours, theirs) = UnixStream::pair().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::vsock_on(&vsock(dir.path()), theirs).unwrap();
    let mut front_end = Frontend::from_stream(ours, 8);
    front_end.set_owner().unwrap();
    front_end.get_features().unwrap();
    let offered = front_end.get_protocol_features().unwrap();
    assert!(offered.contains(VhostUserProtocolFeatures::CONFIG));
    front_end.set_protocol_features(offered).unwrap();
    front_end.set_hdr_flags(vhost::vhost_user::message::VhostUserHeaderFlag::NEED_REPLY);
    assert!(front_end.get_max_mem_slots().unwrap() >= 8);
    for size in [0, 3, 2048] {
        assert!(front_end.set_vring_num(0, size).is_err(), "{size}");
    }
    assert!(front_end.set_vring_num(7, 8).is_err());
    let nowhere = VringConfigData {
        queue_max_size: 8,
        queue_size: 8,
        flags: 0,
        desc_table_addr: 0x1000,
        used_ring_addr: 0x2000,
        avail_ring_addr: 0x3000,
        log_addr: None,
    };
    assert!(front_end.set_vring_addr(0, &nowhere).is_err());
    assert!(server.ended().is_none(), "{:?}", server.ended());
}

#[test]
fn regions_of_memory_come_and_go() {
    use vhost::vhost_user::{VhostUserFrontend, VhostUserProtocolFeatures};
    use vhost::{VhostUserMemoryRegionInfo, VringConfigData};
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = Server::fs_on(&files(), theirs).unwrap();
    let mut front_end = Frontend::from_stream(ours, 2);
    front_end.set_owner().unwrap();
    front_end.get_features().unwrap();
    let offered = front_end.get_protocol_features().unwrap();
    assert!(!offered.contains(VhostUserProtocolFeatures::CONFIG));
    front_end.set_protocol_features(offered).unwrap();
    front_end.set_hdr_flags(vhost::vhost_user::message::VhostUserHeaderFlag::NEED_REPLY);

    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let region = |guest_phys_addr| VhostUserMemoryRegionInfo {
        guest_phys_addr,
        memory_size: 1 << 20,
        userspace_addr: 0x7000_0000 + guest_phys_addr,
        mmap_offset: 0,
        mmap_handle: file.as_raw_fd(),
    };
    let ring = VringConfigData {
        queue_max_size: 8,
        queue_size: 8,
        flags: 0,
        desc_table_addr: 0x7000_0000,
        used_ring_addr: 0x7000_1000,
        avail_ring_addr: 0x7000_2000,
        log_addr: None,
    };
    assert!(front_end.set_vring_addr(0, &ring).is_err());
    front_end.add_mem_region(&region(0)).unwrap();
    front_end.add_mem_region(&region(1 << 30)).unwrap();
    assert!(
        front_end.add_mem_region(&region(4096)).is_err(),
        "regions may not overlap"
    );
    front_end.set_vring_addr(0, &ring).unwrap();
    front_end.remove_mem_region(&region(0)).unwrap();
    assert!(front_end.remove_mem_region(&region(0)).is_err());
    assert!(front_end.set_vring_addr(0, &ring).is_err());
    front_end.reset_device().unwrap();
    front_end.reset_owner().unwrap();
    assert!(server.ended().is_none(), "{:?}", server.ended());
}

#[test]
fn what_is_at_the_path_already_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsock");
    fs::write(&path, "precious").unwrap();
    let error = Server::vsock(&vsock(dir.path()), &dir.path().join("vhost")).unwrap_err();
    assert!(matches!(error, Error::Listen { .. }), "{error}");
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    // And what was made before it failed is not left.
    assert!(!dir.path().join("vhost").exists());
}

#[test]
fn invalid_configurations_are_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let reserved = VsockConfig {
        guest_cid: 2,
        ..vsock(dir.path())
    };
    assert!(Server::vsock(&reserved, &dir.path().join("a")).is_err());
    let nameless = FsConfig {
        tag: String::new(),
        ..files()
    };
    assert!(Server::fs(&nameless, &dir.path().join("b")).is_err());
    assert!(is_empty(dir.path()));
}

#[test]
fn servers_cost_threads_and_descriptors_only_while_they_live() {
    let count = |what: &str| fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
    let dir = tempfile::tempdir().unwrap();
    // Others of these tests run beside: twenty servers would stand out.
    let (tasks, descriptors) = (count("task"), count("fd"));
    for round in 0..10 {
        let home = dir.path().join(round.to_string());
        fs::create_dir(&home).unwrap();
        for (server, socket) in servers(&home) {
            drop(Frontend::connect(&socket, 2).unwrap());
            drop(server);
        }
    }
    assert!(count("task") < tasks + 20);
    assert!(count("fd") < descriptors + 40);
}
