//! A real Linux guest uses the devices, as QEMU's vhost-user back ends.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a step that fails fails the test"
)]

#[path = "guest/mod.rs"]
mod guest;
#[path = "guest/hardware.rs"]
mod hardware;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use guest::{Guest, PATIENCE};
use kata_devices::fs::{Access, FsConfig, SharedTree};
use kata_devices::vhost_user::{Ended, Server};
use kata_devices::vsock::VsockConfig;

struct Machine {
    guest: Guest,
    tree: SharedTree,
    vsock: VsockConfig,
    servers: [Server; 2],
    dir: tempfile::TempDir,
}

impl Machine {
    fn boot(kernel: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let tree = SharedTree::new().unwrap();
        let vsock = VsockConfig {
            guest_cid: 3,
            socket: at("vsock"),
        };
        let files = FsConfig {
            tag: "kataShared".into(),
            tree: tree.clone(),
        };
        let servers = [
            Server::vsock(&vsock, &at("vsock-vhost")).unwrap(),
            Server::fs(&files, &at("fs-vhost")).unwrap(),
        ];
        // Not there yet: refused, not left hanging.
        assert_eq!(dial_raw(&vsock.socket, 7).unwrap_err(), "closed");
        let mut devices =
            guest::vhost_user("vhost-user-fs-device,tag=kataShared", "fs", &at("fs-vhost"))
                .to_vec();
        devices.extend(guest::vhost_user(
            "vhost-user-vsock-device",
            "vs",
            &at("vsock-vhost"),
        ));
        let guest = Guest::boot(kernel, dir.path(), &devices);
        Self {
            guest,
            tree,
            vsock,
            servers,
            dir,
        }
    }

    fn dial(&self, port: u32) -> UnixStream {
        dial_raw(&self.vsock.socket, port).unwrap()
    }
}

/// Dials the guest; the error says how it was refused.
fn dial_raw(socket: &Path, port: u32) -> Result<UnixStream, String> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    writeln!(stream, "CONNECT {port}").unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\n") {
        if stream.read(&mut byte).map_err(|error| error.to_string())? == 0 {
            return Err("closed".to_owned());
        }
        answer.push(byte[0]);
    }
    let answer = String::from_utf8(answer).unwrap();
    let host_port: u32 = answer.strip_prefix("OK ").unwrap().trim().parse().unwrap();
    assert!(host_port >= 1 << 30);
    Ok(stream)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

#[test]
fn a_linux_guest_uses_shared_files_and_vsock() {
    let Some(kernel) = guest::kernel() else {
        return;
    };
    let mut machine = Machine::boot(&kernel);
    machine.guest.ok("mount -t virtiofs kataShared /mnt");

    files_are_shared_both_ways(&mut machine);
    a_read_only_share_refuses_every_change(&mut machine);
    a_single_file_is_shared_without_its_siblings(&mut machine);
    a_share_that_ends_is_stale_and_its_name_can_be_used_again(&mut machine);
    files_get_their_owner_and_mode(&mut machine);

    the_guest_echoes(&machine);
    bytes_written_before_a_half_close_all_arrive(&machine);
    bytes_written_before_the_guest_closes_all_arrive(&machine);
    nobody_listening_is_a_refusal(&machine);
    a_stalled_reader_delays_nobody(&machine);
    the_guest_dials_the_host(&mut machine);
    many_streams_at_once(&machine);

    the_back_ends_outlive_a_killed_machine(machine);
}

fn files_are_shared_both_ways(machine: &mut Machine) {
    let host = machine.dir.path().join("data");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("from-host"), "written by the host").unwrap();
    machine
        .tree
        .share("data", &host, Access::ReadWrite)
        .unwrap();
    let guest = &mut machine.guest;

    assert_eq!(guest.ok("ls /mnt").trim(), "data");
    assert!(
        guest
            .ok("cat /mnt/data/from-host")
            .contains("written by the host")
    );
    guest.ok("echo from the guest > /mnt/data/from-guest");
    assert_eq!(
        fs::read_to_string(host.join("from-guest")).unwrap(),
        "from the guest\n"
    );

    // Live: a change on the host is seen with the next open.
    fs::write(host.join("from-host"), "changed").unwrap();
    guest.ok("sleep 1.1");
    assert!(guest.ok("cat /mnt/data/from-host").contains("changed"));
    fs::write(host.join("later"), "x").unwrap();
    guest.ok("test -e /mnt/data/later");

    guest.ok("mkdir /mnt/data/dir && mv /mnt/data/from-guest /mnt/data/dir/moved");
    guest.ok("ln -s moved /mnt/data/dir/symbolic && ln /mnt/data/dir/moved /mnt/data/dir/hard");
    assert!(
        guest
            .ok("cat /mnt/data/dir/symbolic")
            .contains("from the guest")
    );
    assert_eq!(fs::metadata(host.join("dir/moved")).unwrap().nlink(), 2);
    guest.ok("dd if=/dev/zero of=/mnt/data/big bs=1M count=16 2>/dev/null && sync");
    assert_eq!(fs::metadata(host.join("big")).unwrap().len(), 16 << 20);
    guest.ok("for i in $(seq 1 300); do : > /mnt/data/dir/f$i; done");
    assert_eq!(guest.ok("ls /mnt/data/dir | wc -l").trim(), "303");
    guest.ok("rm -r /mnt/data/dir /mnt/data/big && ! test -e /mnt/data/dir");
    assert!(!host.join("dir").exists());
    guest.ok("df /mnt/data > /dev/null");
    guest.fails("ls /mnt/nothing");
    guest.fails("mkdir /mnt/new");
    guest.fails("mv /mnt/data/later /mnt/later");
}

fn a_read_only_share_refuses_every_change(machine: &mut Machine) {
    let host = machine.dir.path().join("fixed");
    fs::create_dir_all(host.join("sub")).unwrap();
    fs::write(host.join("file"), "fixed").unwrap();
    machine
        .tree
        .share("fixed", &host, Access::ReadOnly)
        .unwrap();
    let guest = &mut machine.guest;
    assert!(guest.ok("cat /mnt/fixed/file").contains("fixed"));
    for command in [
        "echo x > /mnt/fixed/file",
        "echo x >> /mnt/fixed/file",
        "echo x > /mnt/fixed/new",
        "rm /mnt/fixed/file",
        "mkdir /mnt/fixed/new",
        "rmdir /mnt/fixed/sub",
        "mv /mnt/fixed/file /mnt/fixed/other",
        "mv /mnt/fixed/file /mnt/data/other",
        "ln /mnt/fixed/file /mnt/fixed/other",
        "ln -s file /mnt/fixed/link",
        "mknod /mnt/fixed/fifo p",
        "chmod 777 /mnt/fixed/file",
        "chown 1 /mnt/fixed/file",
        "touch /mnt/fixed/file",
        "truncate -s 0 /mnt/fixed/file",
    ] {
        guest.fails(command);
    }
    assert!(
        guest
            .fails("echo x > /mnt/fixed/file")
            .contains("Read-only file system")
    );
    assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "fixed");
    assert_eq!(fs::read_dir(&host).unwrap().count(), 2);
}

fn a_single_file_is_shared_without_its_siblings(machine: &mut Machine) {
    let host = machine.dir.path().join("secrets");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("resolv.conf"), "nameserver 192.0.2.1\n").unwrap();
    fs::write(host.join("sibling"), "secret").unwrap();
    machine
        .tree
        .share("resolv.conf", &host.join("resolv.conf"), Access::ReadWrite)
        .unwrap();
    let guest = &mut machine.guest;

    assert!(guest.ok("cat /mnt/resolv.conf").contains("192.0.2.1"));
    guest.ok("echo search example.org >> /mnt/resolv.conf");
    assert!(
        fs::read_to_string(host.join("resolv.conf"))
            .unwrap()
            .ends_with("example.org\n")
    );
    guest.ok(": > /tmp/target && mount --bind /mnt/resolv.conf /tmp/target && cat /tmp/target && umount /tmp/target");
    guest.fails("cat /mnt/resolv.conf/../sibling");
    guest.fails("ls /mnt/sibling");
    guest.fails("rm /mnt/resolv.conf");
}

fn a_share_that_ends_is_stale_and_its_name_can_be_used_again(machine: &mut Machine) {
    let first = machine.dir.path().join("first");
    let second = machine.dir.path().join("second");
    for (dir, content) in [(&first, "one"), (&second, "two")] {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("file"), content).unwrap();
    }
    machine
        .tree
        .share("volume", &first, Access::ReadWrite)
        .unwrap();
    assert!(
        machine
            .guest
            .ok("exec 5< /mnt/volume/file; cat /mnt/volume/file")
            .contains("one")
    );
    machine.tree.unshare("volume").unwrap();
    machine.guest.fails("ls /mnt/volume");
    machine
        .tree
        .share("volume", &second, Access::ReadWrite)
        .unwrap();
    assert!(machine.guest.ok("cat /mnt/volume/file").contains("two"));
    machine.guest.ok("exec 5<&-");
    machine.tree.unshare("volume").unwrap();
}

fn files_get_their_owner_and_mode(machine: &mut Machine) {
    let host = machine.dir.path().join("data");
    fs::set_permissions(&host, fs::Permissions::from_mode(0o777)).unwrap();
    machine
        .guest
        .ok("umask 022; : > /mnt/data/plain; umask 000; : > /mnt/data/open; umask 022");
    let mode = |name: &str| fs::metadata(host.join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("plain"), mode("open")), (0o644, 0o666));
    if !is_root() {
        return;
    }
    let guest = &mut machine.guest;
    guest.ok("echo 'u:x:1234:1234::/:/bin/sh' > /etc/passwd || (mkdir /etc && echo 'u:x:1234:1234::/:/bin/sh' > /etc/passwd)");
    guest.ok("su u -c 'echo mine > /mnt/data/mine && mkdir /mnt/data/own'");
    let mine = fs::metadata(host.join("mine")).unwrap();
    assert_eq!((mine.uid(), mine.gid()), (1234, 1234));
    guest.fails("su u -c 'echo x > /mnt/data/plain'");
    guest.ok("chown 7:8 /mnt/data/mine && mknod /mnt/data/null c 1 3");
    assert_eq!(fs::metadata(host.join("mine")).unwrap().uid(), 7);
    // A group that only the guest knows the user to be in.
    fs::create_dir(host.join("team")).unwrap();
    fs::set_permissions(host.join("team"), fs::Permissions::from_mode(0o2770)).unwrap();
    std::os::unix::fs::chown(host.join("team"), Some(0), Some(2000)).unwrap();
    guest.ok(
        "echo 'team:x:2000:u' > /etc/group; sleep 1.1; su u -c 'echo x > /mnt/data/team/shared'",
    );
    let shared = fs::metadata(host.join("team/shared")).unwrap();
    assert_eq!((shared.uid(), shared.gid()), (1234, 2000));
}

fn the_guest_echoes(machine: &Machine) {
    let stream = machine.dial(7);
    let mut reader = BufReader::new(&stream);
    for line in ["one\n", "two\n"] {
        (&stream).write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        reader.read_line(&mut answer).unwrap();
        assert_eq!(answer, line);
    }
}

fn bytes_written_before_a_half_close_all_arrive(machine: &Machine) {
    let mut stream = machine.dial(8);
    let bytes: Vec<u8> = (0..8u32 << 20).map(|at| (at % 251) as u8).collect();
    let began = Instant::now();
    stream.write_all(&bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    eprintln!("host to guest: 8 MiB in {:?}", began.elapsed());
    let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
    assert_eq!(answer, format!("{} {sum}\n", bytes.len()));
}

fn bytes_written_before_the_guest_closes_all_arrive(machine: &Machine) {
    for size in [1usize, 4096, 65_537, 32 << 20] {
        let mut stream = machine.dial(9);
        writeln!(stream, "{size}").unwrap();
        let mut bytes = Vec::new();
        let began = Instant::now();
        stream.read_to_end(&mut bytes).unwrap();
        eprintln!("guest to host: {size} bytes in {:?}", began.elapsed());
        assert_eq!(bytes.len(), size);
        let right = bytes
            .iter()
            .enumerate()
            .all(|(at, byte)| *byte == (at % (1 << 17) % 251) as u8);
        assert!(right);
    }
    let mut stream = machine.dial(10);
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"bye");
}

fn nobody_listening_is_a_refusal(machine: &Machine) {
    assert_eq!(dial_raw(&machine.vsock.socket, 4711).unwrap_err(), "closed");
}

fn a_stalled_reader_delays_nobody(machine: &Machine) {
    let mut stalled = machine.dial(9);
    writeln!(stalled, "{}", 1usize << 30).unwrap();
    let deaf = machine.dial(11);
    deaf.set_nonblocking(true).unwrap();
    while (&deaf).write(&[0; 65536]).is_ok() {}
    the_guest_echoes(machine);
    bytes_written_before_a_half_close_all_arrive(machine);
    // What was stalled goes on.
    let mut some = vec![0; 4 << 20];
    stalled.read_exact(&mut some).unwrap();
}

fn the_guest_dials_the_host(machine: &mut Machine) {
    assert!(
        machine
            .guest
            .fails("vsock_peer dial 1024")
            .contains("connect")
    );
    let listener = UnixListener::bind(machine.vsock.host_socket(1024)).unwrap();
    let host = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut greeting = String::new();
        stream.read_to_string(&mut greeting).unwrap();
        stream.write_all(b"welcome").unwrap();
        greeting
    });
    assert!(
        machine
            .guest
            .ok("vsock_peer dial 1024")
            .contains("ANSWER welcome")
    );
    assert_eq!(host.join().unwrap(), "hello from the guest\n");
}

fn many_streams_at_once(machine: &Machine) {
    let streams: Vec<_> = (0..100).map(|_| machine.dial(7)).collect();
    for (number, mut stream) in streams.iter().enumerate() {
        write!(stream, "{number:04}").unwrap();
    }
    for (number, mut stream) in streams.iter().enumerate().rev() {
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *format!("{number:04}").as_bytes());
    }
}

fn the_back_ends_outlive_a_killed_machine(mut machine: Machine) {
    let mut stream = machine.dial(7);
    machine.guest.kill();
    for server in &machine.servers {
        let mut bell = [rustix::event::PollFd::from_borrowed_fd(
            server.as_fd(),
            rustix::event::PollFlags::IN,
        )];
        let limit = rustix::event::Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        assert_eq!(rustix::event::poll(&mut bell, Some(&limit)).unwrap(), 1);
        assert!(
            matches!(server.ended(), Some(Ended::Disconnected)),
            "{:?}",
            server.ended()
        );
    }
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    let began = Instant::now();
    let dir: PathBuf = machine.dir.path().to_owned();
    drop(machine.servers);
    assert!(began.elapsed() < Duration::from_secs(2));
    for name in ["vsock", "vsock-vhost", "fs-vhost"] {
        assert!(!dir.join(name).exists(), "{name} is left");
    }
}
