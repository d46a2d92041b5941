//! Disks and network cards of ours, as QEMU's vhost-user back ends.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use kata_devices::blk::BlkConfig;
use kata_devices::net::{Link, NetConfig, Tap};
use kata_devices::rng::RngConfig;
use kata_devices::vhost_user::Server;

use crate::guest::{Guest, kernel, vhost_user};

const MIB: usize = 1 << 20;

fn noise(length: usize, mut seed: u32) -> Vec<u8> {
    let mut step = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    (0..length).map(|_| step()).collect()
}

fn md5(bytes: &[u8]) -> String {
    let mut sum = Command::new("/bin/busybox")
        .arg("md5sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    sum.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = sum.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout)[..32].to_owned()
}

#[test]
fn a_linux_guest_reads_and_writes_disks() {
    let Some(kernel) = kernel() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let content = noise(16 * MIB, 1);
    std::fs::write(at("disk"), &content).unwrap();
    std::fs::write(at("fixed"), &content[..MIB]).unwrap();
    let mut disk = BlkConfig::new(at("disk"));
    disk.queues = 2;
    disk.serial = "kata-test-disk".into();
    let mut fixed = BlkConfig::new(at("fixed"));
    fixed.read_only = true;
    let servers = [
        Server::blk(&disk, &at("disk-vhost")).unwrap(),
        Server::blk(&fixed, &at("fixed-vhost")).unwrap(),
    ];
    let mut devices = vhost_user("vhost-user-blk,num-queues=2", "d0", &at("disk-vhost")).to_vec();
    devices.extend(vhost_user(
        "vhost-user-blk,num-queues=1",
        "d1",
        &at("fixed-vhost"),
    ));
    let mut guest = Guest::boot(&kernel, dir.path(), &devices);
    guest.ok("mount -t sysfs sys /sys");
    let names = guest.ok(
        "for d in /sys/block/vd*; do echo $(basename $d) $(cat $d/size) $(cat $d/serial); done",
    );
    let first = if names.contains("vda 32768") {
        "vda"
    } else {
        "vdb"
    };
    let second = if first == "vda" { "vdb" } else { "vda" };
    assert!(
        names.contains(&format!("{first} 32768 kata-test-disk")),
        "{names}"
    );

    the_whole_disk_reads_as_on_the_host(&mut guest, first, &content);
    what_the_guest_writes_is_on_the_host(&mut guest, first, &at("disk"));
    a_file_system_lives_on_it(&mut guest, first);
    guest.fails(&format!(
        "dd if=/dev/zero of=/dev/{second} bs=4k count=1 conv=fsync"
    ));
    assert_eq!(std::fs::read(at("fixed")).unwrap(), &content[..MIB]);
    assert!(servers.iter().all(|server| server.ended().is_none()));
}

fn the_whole_disk_reads_as_on_the_host(guest: &mut Guest, name: &str, content: &[u8]) {
    let sum = guest.ok(&format!("dd if=/dev/{name} bs=1M 2>/dev/null | md5sum"));
    assert!(sum.contains(&md5(content)), "{sum}");
}

fn what_the_guest_writes_is_on_the_host(guest: &mut Guest, name: &str, disk: &Path) {
    guest.ok(&format!("yes kata | head -c 3000000 > /tmp/text && dd if=/tmp/text of=/dev/{name} bs=64k seek=16 conv=fsync"));
    let mut written = vec![0; 3_000_000];
    let mut file = std::fs::File::open(disk).unwrap();
    file.seek(SeekFrom::Start(MIB as u64)).unwrap();
    file.read_exact(&mut written).unwrap();
    let expected: Vec<u8> = b"kata\n".iter().copied().cycle().take(3_000_000).collect();
    assert!(written == expected, "the disk has something else");
}

fn a_file_system_lives_on_it(guest: &mut Guest, name: &str) {
    let (status, output) = guest.run(&format!(
        "mke2fs /dev/{name} && mkdir -p /disk && mount -t ext4 /dev/{name} /disk"
    ));
    if status != 0 {
        return eprintln!("skipped: the guest has no ext4: {output}");
    }
    guest.ok("for i in 1 2 3 4 5 6 7 8; do head -c 300000 /dev/urandom > /disk/f$i; done");
    guest.ok("md5sum /disk/f* > /tmp/sums && umount /disk && echo 3 > /proc/sys/vm/drop_caches");
    guest.ok(&format!(
        "mount -t ext4 /dev/{name} /disk && md5sum -c /tmp/sums && umount /disk"
    ));
}

/// The output of a program of the host; `None`, aloud, where there is none.
fn host(program: &str, arguments: &[&str]) -> Option<std::process::Output> {
    Command::new(program)
        .args(arguments)
        .output()
        .inspect_err(|error| eprintln!("skipped: {program}: {error}"))
        .ok()
}

#[test]
fn a_file_system_of_the_host_is_whole_after_a_guest_has_used_it() {
    let Some(kernel) = kernel() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    let file = std::fs::File::create(&disk).unwrap();
    file.set_len(64 << 20).unwrap();
    let path = disk.to_str().unwrap();
    let Some(made) = host("mkfs.ext4", &["-q", "-F", path]) else {
        return;
    };
    assert!(made.status.success(), "{made:?}");
    let mut config = BlkConfig::new(&disk);
    config.queues = 2;
    let server = Server::blk(&config, &dir.path().join("disk-vhost")).unwrap();
    let socket = dir.path().join("disk-vhost");
    let devices = vhost_user("vhost-user-blk,num-queues=2", "d0", &socket);
    let mut guest = Guest::boot(&kernel, dir.path(), &devices);
    let (status, output) = guest.run("mkdir /disk && mount -t ext4 /dev/vda /disk");
    if status != 0 {
        return eprintln!("skipped: the guest has no ext4: {output}");
    }
    guest.ok("head -c 8000000 /dev/urandom > /disk/kept && cp /disk/kept /disk/gone");
    let sum = guest.ok("sync && md5sum < /disk/kept");
    guest.ok("umount /disk && echo 3 > /proc/sys/vm/drop_caches");
    guest.ok("mount -t ext4 /dev/vda /disk && cmp /disk/kept /disk/gone");
    let full = file_blocks(&file);
    guest.ok("rm /disk/gone && sync");
    // What is not used any more goes back to the host.
    let (status, _) = guest.run("fstrim /disk");
    guest.ok("umount /disk");
    if status == 0 {
        let left = file_blocks(&file);
        assert!(left + 10_000 < full, "{full} blocks, then {left}");
    } else {
        eprintln!("skipped: the guest cannot trim");
    }
    drop(guest);
    server.shutdown();
    let Some(checked) = host("fsck.ext4", &["-f", "-n", path]) else {
        return;
    };
    assert!(checked.status.success(), "{checked:?}");
    if let Some(read) = host("debugfs", &["-R", "cat /kept", path]) {
        assert_eq!(read.stdout.len(), 8_000_000);
        assert!(sum.contains(&md5(&read.stdout)), "{sum}");
    }
}

fn file_blocks(file: &std::fs::File) -> u64 {
    use std::os::unix::fs::MetadataExt;
    file.sync_all().unwrap();
    file.metadata().unwrap().blocks()
}

#[test]
fn a_linux_guest_draws_entropy() {
    let Some(kernel) = kernel() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("rng-vhost");
    let _server = Server::rng(&RngConfig::default(), &socket).unwrap();
    // A name that both kinds of machine know: on PCI it is the bus's.
    let name = match std::env::var_os("KATA_TEST_MACHINE") {
        Some(_) => "vhost-user-rng-pci",
        None => "vhost-user-rng",
    };
    let devices = vhost_user(name, "rng", &socket);
    let mut guest = Guest::boot(&kernel, dir.path(), &devices);
    guest.ok("mount -t sysfs sys /sys");
    let (_, current) = guest.run("cat /sys/class/misc/hw_random/rng_current");
    if !current.contains("virtio_rng") {
        return eprintln!("skipped: this kernel has no virtio-rng driver");
    }
    let drawn = guest.ok("dd if=/dev/hwrng bs=1000 count=100 2>/dev/null | gzip -c | wc -c");
    let compressed: usize = drawn.trim().parse().unwrap();
    assert!(
        compressed > 90_000,
        "entropy does not compress: {compressed}"
    );
}

#[test]
#[expect(
    deprecated,
    reason = "no descriptor is unshared, of which the new form warns"
)]
fn a_linux_guest_talks_to_the_host_over_a_tap() {
    let Some(kernel) = kernel() else {
        return;
    };
    // In a thread with a network of its own, which goes with it.
    std::thread::scope(|scope| {
        scope.spawn(
            || match rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET) {
                Ok(()) => talk_over_a_tap(&kernel),
                Err(error) => eprintln!("skipped: no network namespace: {error}"),
            },
        );
    });
}

fn talk_over_a_tap(kernel: &Path) {
    let tap = match Tap::open("kata0", 1) {
        Ok(tap) => tap,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    for arguments in ["addr add 10.9.0.1/24 dev kata0", "link set kata0 up"] {
        let set = Command::new("ip").args(arguments.split(' ')).status();
        if !set.is_ok_and(|status| status.success()) {
            return eprintln!("skipped: cannot set up a tap with ip");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("net-vhost");
    let server = Server::net(NetConfig::new(Link::Tap(tap)), &socket).unwrap();
    let devices = [
        "-chardev".to_owned(),
        format!("socket,id=net,path={}", socket.display()),
        "-netdev".to_owned(),
        "vhost-user,id=n0,chardev=net".to_owned(),
        "-device".to_owned(),
        "virtio-net-device,netdev=n0,mac=02:00:00:00:00:09".to_owned(),
    ];
    let mut guest = Guest::boot(kernel, dir.path(), &devices);
    guest.ok("ifconfig eth0 10.9.0.2 netmask 255.255.255.0 up");
    eprintln!("kata0 {:?}", server.ended());
    let _ = guest.run("ping -c 1 -W 2 10.9.0.1; ifconfig eth0; cat /proc/interrupts | grep virtio");
    eprintln!(
        "{}",
        std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()
    );
    let pings = guest.ok("ping -c 3 -W 20 10.9.0.1");
    assert!(pings.contains("3 packets received"), "{pings}");

    // TCP both ways, segments and checksums left to whoever does them.
    let listener = std::net::TcpListener::bind("10.9.0.1:7000").unwrap();
    let content = noise(4 * MIB, 7);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&content).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let sum = guest.ok("nc 10.9.0.1 7000 < /dev/null | md5sum");
        assert!(sum.contains(&md5(&content)), "{sum}");
    });
    std::thread::scope(|scope| {
        let got = scope.spawn(|| {
            let mut got = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut got).unwrap();
            got
        });
        guest.ok("yes guest | head -c 4000000 | nc 10.9.0.1 7000 > /dev/null");
        let got = got.join().unwrap();
        assert_eq!(got.len(), 4_000_000);
        assert!(got.chunks(6).all(|line| b"guest\n".starts_with(line)));
    });
    assert!(server.ended().is_none());
}
