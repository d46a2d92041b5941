//! The shared file system through a vhost-user front end, with the guest's FUSE
//! driver in the test.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

#[path = "driver/mod.rs"]
mod driver;
#[path = "driver/fuse.rs"]
mod guest;
#[path = "driver/lease.rs"]
mod lease;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use guest::libc_flags::{APPEND, RDONLY, RDWR, TRUNC, WRONLY};
use guest::*;
use kata_devices::fs::{Access, FsConfig, SharedTree};
use kata_devices::vhost_user::Server;
use proptest::prelude::*;
use vhost::VhostBackend;

const ROOT: u64 = 1;
const EROFS: i32 = 30;
const ENOENT: i32 = 2;
const EINVAL: i32 = 22;
const ESTALE: i32 = 116;

struct Machine {
    fuse: Fuse,
    tree: SharedTree,
    dir: tempfile::TempDir,
    _server: Server,
}

impl Machine {
    fn new() -> Self {
        let mut machine = Self::without_init();
        machine.fuse.init();
        machine
    }

    fn without_init() -> Self {
        let tree = SharedTree::new().unwrap();
        let config = FsConfig {
            tag: "kataShared".into(),
            tree: tree.clone(),
        };
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = Server::fs_on(&config, theirs).unwrap();
        let fuse = Fuse::without_init(ours);
        Self {
            fuse,
            tree,
            dir: tempfile::tempdir().unwrap(),
            _server: server,
        }
    }

    /// A directory of the host, shared under its own name.
    fn share(&self, name: &str, access: Access) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir(&path).unwrap();
        self.tree.share(name, &path, access).unwrap();
        path
    }

    fn at(&mut self, path: &str) -> u64 {
        path.split('/')
            .fold(ROOT, |node, name| self.fuse.lookup(node, name).unwrap())
    }
}

/// Descriptors of this process that lie below `path`.
fn descriptors_below(path: &Path) -> usize {
    let entries = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(Result::ok);
    entries
        .filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(path)))
        .count()
}

fn names(listing: &[u8], plus: bool) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = listing;
    let skip = if plus { 128 } else { 0 };
    while rest.len() > skip + 24 {
        let entry = &rest[skip..];
        let length = u32_at(entry, 16) as usize;
        names.push(String::from_utf8(entry[24..24 + length].to_vec()).unwrap());
        rest = &rest[(skip + 24 + length).next_multiple_of(8).min(rest.len())..];
    }
    names.sort();
    names
}

#[test]
fn large_writes_and_close_to_open_are_negotiated() {
    let mut machine = Machine::without_init();
    let out = machine.fuse.init();
    let flags = u32_at(&out, 12);
    assert_eq!(u32_at(&out, 20), 1 << 20, "max_write");
    let set = |bit: u32| flags & 1 << bit != 0;
    assert!(set(0) && set(3) && set(12) && set(13) && set(14) && set(18) && set(22));
    assert!(!set(16), "the guest must not cache writes");
    assert!(!set(17) && !set(24), "every open must be seen");
}

#[test]
fn a_file_is_made_written_read_and_removed() {
    let mut machine = Machine::new();
    let host = machine.share("data", Access::ReadWrite);
    let dir = machine.at("data");
    let fuse = &mut machine.fuse;
    let (node, handle) = fuse.create(dir, "new", 0o666).unwrap();
    assert_eq!(u32_at(&fuse.write(node, handle, b"content").unwrap(), 0), 7);
    fuse.call(FLUSH, node, &[&handle.to_le_bytes()[..], &[0; 16]].concat())
        .unwrap();
    fuse.call(FSYNC, node, &[&handle.to_le_bytes()[..], &[0; 8]].concat())
        .unwrap();
    assert_eq!(fuse.read_with(READ, node, handle, 100).unwrap(), b"content");
    let hole = [
        &handle.to_le_bytes()[..],
        &0u64.to_le_bytes(),
        &words(&[4, 0]),
    ]
    .concat();
    assert_eq!(u64_at(&fuse.call(LSEEK, node, &hole).unwrap(), 0), 7);
    let allocate = [
        &handle.to_le_bytes()[..],
        &0u64.to_le_bytes(),
        &100u64.to_le_bytes(),
        &[0; 8],
    ];
    fuse.call(FALLOCATE, node, &allocate.concat()).unwrap();
    fuse.release(RELEASE, node, handle).unwrap();
    let meta = fs::metadata(host.join("new")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.len()), (0o644, 100));
    let attr = fuse.call(GETATTR, node, &[0; 16]).unwrap();
    assert_eq!(u64_at(&attr, 24), 100);
    fuse.call(ACCESS, node, &words(&[4, 0])).unwrap();
    fuse.call(UNLINK, dir, &name_of("new")).unwrap();
    assert_eq!(fuse.lookup(dir, "new"), Err(ENOENT));
    assert!(!host.join("new").exists());
}

#[test]
fn names_are_linked_renamed_and_listed() {
    let mut machine = Machine::new();
    let host = machine.share("data", Access::ReadWrite);
    let dir = machine.at("data");
    let fuse = &mut machine.fuse;
    fs::write(host.join("file"), "x").unwrap();
    let node = fuse.lookup(dir, "file").unwrap();
    fuse.call(
        MKDIR,
        dir,
        &[words(&[0o777, 0o022]), name_of("sub")].concat(),
    )
    .unwrap();
    fuse.call(
        LINK,
        dir,
        &[node.to_le_bytes().to_vec(), name_of("hard")].concat(),
    )
    .unwrap();
    fuse.call(SYMLINK, dir, &[name_of("soft"), name_of("file")].concat())
        .unwrap();
    let fifo = words(&[0o010_644, 0, 0, 0]);
    fuse.call(MKNOD, dir, &[fifo, name_of("fifo")].concat())
        .unwrap();
    let soft = fuse.lookup(dir, "soft").unwrap();
    assert_eq!(fuse.call(READLINK, soft, &[]).unwrap(), b"file");
    let sub = fuse.lookup(dir, "sub").unwrap();
    let to_sub = [
        sub.to_le_bytes().to_vec(),
        name_of("hard"),
        name_of("moved"),
    ]
    .concat();
    fuse.call(RENAME, dir, &to_sub).unwrap();
    assert!(host.join("sub/moved").exists());
    fuse.call(RMDIR, dir, &name_of("sub")).unwrap_err();

    let handle = u64_at(&fuse.call(OPENDIR, dir, &[0; 8]).unwrap(), 0);
    for (opcode, plus) in [(READDIR, false), (READDIRPLUS, true)] {
        let listing = fuse.read_with(opcode, dir, handle, 4096).unwrap();
        assert_eq!(names(&listing, plus), ["fifo", "file", "soft", "sub"]);
    }
    fuse.call(
        FSYNCDIR,
        dir,
        &[&handle.to_le_bytes()[..], &[0; 8]].concat(),
    )
    .unwrap();
    fuse.release(RELEASEDIR, dir, handle).unwrap();
    fuse.call(STATFS, dir, &[]).unwrap();
}

#[test]
fn extended_attributes_are_kept() {
    let mut machine = Machine::new();
    let host = machine.share("data", Access::ReadWrite);
    fs::write(host.join("file"), "x").unwrap();
    let node = machine.at("data/file");
    let fuse = &mut machine.fuse;
    let set = [words(&[5, 0]), name_of("user.k"), b"value".to_vec()].concat();
    match fuse.call(SETXATTR, node, &set) {
        Err(95) => return eprintln!("skipped: no extended attributes in the temporary directory"),
        result => drop(result.unwrap()),
    }
    let get = |size| [words(&[size, 0]), name_of("user.k")].concat();
    assert_eq!(fuse.call(GETXATTR, node, &get(u32::MAX)).unwrap(), b"value");
    assert_eq!(u32_at(&fuse.call(GETXATTR, node, &get(0)).unwrap(), 0), 5);
    assert_eq!(
        fuse.call(LISTXATTR, node, &words(&[u32::MAX, 0])).unwrap(),
        b"user.k\0"
    );
    fuse.call(REMOVEXATTR, node, &name_of("user.k")).unwrap();
    assert_eq!(fuse.call(GETXATTR, node, &get(100)), Err(61));
}

#[test]
fn a_read_only_share_refuses_every_change() {
    let mut machine = Machine::new();
    let host = machine.share("fixed", Access::ReadOnly);
    fs::create_dir(host.join("sub")).unwrap();
    fs::write(host.join("file"), "fixed").unwrap();
    let (dir, node) = (machine.at("fixed"), machine.at("fixed/file"));
    let fuse = &mut machine.fuse;
    let file = || name_of("file");
    let two = |node: u64| [node.to_le_bytes().to_vec(), file(), name_of("b")].concat();
    let changes: Vec<(u32, u64, Vec<u8>)> = vec![
        (SETATTR, node, vec![0; 88]),
        (SYMLINK, dir, [name_of("l"), file()].concat()),
        (
            MKNOD,
            dir,
            [words(&[0o010_644, 0, 0, 0]), name_of("f")].concat(),
        ),
        (MKDIR, dir, [words(&[0o777, 0]), name_of("d")].concat()),
        (UNLINK, dir, file()),
        (RMDIR, dir, name_of("sub")),
        (RENAME, dir, two(dir)),
        (
            LINK,
            dir,
            [node.to_le_bytes().to_vec(), name_of("h")].concat(),
        ),
        (
            SETXATTR,
            node,
            [words(&[1, 0]), name_of("user.k"), b"v".to_vec()].concat(),
        ),
        (REMOVEXATTR, node, name_of("user.k")),
        (ACCESS, node, words(&[2, 0])),
    ];
    for (opcode, node, body) in changes {
        assert_eq!(
            fuse.call(opcode, node, &body),
            Err(EROFS),
            "opcode {opcode}"
        );
    }
    // With and without O_TMPFILE (__O_TMPFILE | O_DIRECTORY).
    for flags in [
        WRONLY,
        RDWR,
        RDONLY | TRUNC,
        RDONLY | APPEND,
        RDWR | 0o20_200_000,
    ] {
        assert_eq!(fuse.open(node, flags), Err(EROFS), "flags {flags:o}");
        assert_eq!(fuse.open(dir, flags), Err(EROFS), "flags {flags:o}");
    }
    assert_eq!(fuse.create(dir, "new", 0o666), Err(EROFS));
    let handle = fuse.open(node, RDONLY).unwrap();
    assert_eq!(fuse.write(node, handle, b"x"), Err(EROFS));
    let allocate = [
        &handle.to_le_bytes()[..],
        &[0; 8],
        &9u64.to_le_bytes(),
        &[0; 8],
    ]
    .concat();
    assert_eq!(fuse.call(FALLOCATE, node, &allocate), Err(EROFS));
    assert_eq!(fuse.read_with(READ, node, handle, 9).unwrap(), b"fixed");
    assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "fixed");
}

#[test]
fn nothing_connects_two_shares() {
    let mut machine = Machine::new();
    let host = machine.share("a", Access::ReadWrite);
    machine.share("b", Access::ReadWrite);
    fs::write(host.join("file"), "x").unwrap();
    let (a, b, file) = (machine.at("a"), machine.at("b"), machine.at("a/file"));
    let fuse = &mut machine.fuse;
    let rename = [b.to_le_bytes().to_vec(), name_of("file"), name_of("file")].concat();
    assert_eq!(fuse.call(RENAME, a, &rename), Err(18));
    let link = [file.to_le_bytes().to_vec(), name_of("file")].concat();
    assert_eq!(fuse.call(LINK, b, &link), Err(18));
}

#[test]
fn the_guest_does_not_leave_a_share() {
    let mut machine = Machine::new();
    fs::write(machine.dir.path().join("secret"), "x").unwrap();
    let host = machine.share("jail", Access::ReadWrite);
    fs::create_dir(host.join("sub")).unwrap();
    symlink("/etc/passwd", host.join("out")).unwrap();
    let (jail, sub, out) = (
        machine.at("jail"),
        machine.at("jail/sub"),
        machine.at("jail/out"),
    );
    // A directory that the host moves away takes its parents not along.
    fs::rename(host.join("sub"), machine.dir.path().join("moved")).unwrap();
    let fuse = &mut machine.fuse;
    for (node, name) in [
        (jail, ".."),
        (sub, ".."),
        (jail, "."),
        (jail, "../secret"),
        (jail, "sub/.."),
        (jail, ""),
        (jail, "/etc/passwd"),
        (ROOT, ".."),
    ] {
        assert_eq!(fuse.lookup(node, name), Err(EINVAL), "{name:?}");
        let made = [words(&[0o777, 0]), name_of(name)].concat();
        assert!(fuse.call(MKDIR, node, &made).is_err(), "{name:?}");
    }
    assert!(fuse.lookup(out, "x").is_err());
    assert!(
        fuse.open(out, RDONLY).is_err(),
        "a symbolic link was followed"
    );
}

#[test]
fn special_files_are_not_opened_on_the_host() {
    let mut machine = Machine::new();
    machine.share("data", Access::ReadWrite);
    let dir = machine.at("data");
    let fuse = &mut machine.fuse;
    fuse.call(
        MKNOD,
        dir,
        &[words(&[0o010_666, 0, 0, 0]), name_of("fifo")].concat(),
    )
    .unwrap();
    let node = fuse.lookup(dir, "fifo").unwrap();
    assert!(fuse.open(node, RDONLY).is_err());
}

#[test]
fn a_single_file_has_no_siblings() {
    let mut machine = Machine::new();
    let path = machine.dir.path().join("one");
    fs::write(&path, "alone").unwrap();
    fs::write(machine.dir.path().join("other"), "x").unwrap();
    machine.tree.share("one", &path, Access::ReadWrite).unwrap();
    let node = machine.at("one");
    let fuse = &mut machine.fuse;
    assert_eq!(fuse.lookup(node, "other"), Err(20));
    let handle = fuse.open(node, RDWR).unwrap();
    assert_eq!(fuse.read_with(READ, node, handle, 99).unwrap(), b"alone");
    fuse.write(node, handle, b"ALONE").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "ALONE");
    assert!(fuse.call(OPENDIR, node, &[0; 8]).is_err());
    assert_eq!(fuse.call(UNLINK, ROOT, &name_of("one")), Err(EROFS));
}

#[test]
fn the_root_lists_the_shares_and_cannot_be_changed() {
    let mut machine = Machine::new();
    machine.share("b", Access::ReadWrite);
    machine.share("a", Access::ReadOnly);
    let fuse = &mut machine.fuse;
    let handle = u64_at(&fuse.call(OPENDIR, ROOT, &[0; 8]).unwrap(), 0);
    for (opcode, plus) in [(READDIR, false), (READDIRPLUS, true)] {
        let listing = fuse.read_with(opcode, ROOT, handle, 4096).unwrap();
        assert_eq!(names(&listing, plus), ["a", "b"]);
    }
    fuse.release(RELEASEDIR, ROOT, handle).unwrap();
    fuse.call(STATFS, ROOT, &[]).unwrap();
    fuse.call(GETATTR, ROOT, &[0; 16]).unwrap();
    fuse.call(ACCESS, ROOT, &words(&[4, 0])).unwrap();
    assert_eq!(
        fuse.call(LISTXATTR, ROOT, &words(&[0, 0]))
            .map(|out| u32_at(&out, 0)),
        Ok(0)
    );
    assert_eq!(
        fuse.call(
            GETXATTR,
            ROOT,
            &[words(&[9, 0]), name_of("user.k")].concat()
        ),
        Err(61)
    );
    assert_eq!(fuse.create(ROOT, "new", 0o666), Err(EROFS));
    assert_eq!(
        fuse.call(MKDIR, ROOT, &[words(&[0, 0]), name_of("d")].concat()),
        Err(EROFS)
    );
    assert_eq!(fuse.call(SETATTR, ROOT, &[0; 88]), Err(EROFS));
    assert!(fuse.open(ROOT, RDONLY).is_err());
}

#[test]
fn a_share_that_ends_is_stale_and_its_descriptors_are_closed() {
    let mut machine = Machine::new();
    let host = machine.share("data", Access::ReadWrite);
    fs::write(host.join("file"), "x").unwrap();
    let host = fs::canonicalize(&host).unwrap();
    let node = machine.at("data/file");
    let handle = machine.fuse.open(node, RDWR).unwrap();
    assert!(descriptors_below(&host) >= 3);
    machine.tree.unshare("data").unwrap();
    // The request that is answered last is over when the next one is.
    assert_eq!(machine.fuse.lookup(ROOT, "data"), Err(ENOENT));
    assert_eq!(descriptors_below(&host), 0);
    assert_eq!(machine.fuse.read_with(READ, node, handle, 9), Err(ESTALE));
    machine
        .tree
        .share("data", &host, Access::ReadWrite)
        .unwrap();
    assert_ne!(machine.at("data/file"), node);
}

#[test]
fn what_the_guest_forgets_is_closed() {
    let mut machine = Machine::new();
    let host = machine.share("data", Access::ReadWrite);
    let host = fs::canonicalize(&host).unwrap();
    fs::write(host.join("file"), "x").unwrap();
    let first = machine.at("data/file");
    let node = machine.at("data/file");
    assert_eq!(first, node);
    assert_eq!(descriptors_below(&host), 2);
    machine.fuse.forget(node, 1);
    assert_eq!(descriptors_below(&host), 2);
    machine.fuse.forget(node, 5);
    assert_eq!(descriptors_below(&host), 1);
    assert!(machine.fuse.open(node, RDONLY).is_err());
}

#[test]
fn a_new_driver_starts_with_nothing_open() {
    let mut machine = Machine::new();
    let host = machine.share("data", Access::ReadWrite);
    let host = fs::canonicalize(&host).unwrap();
    fs::write(host.join("file"), "x").unwrap();
    let node = machine.at("data/file");
    machine.fuse.open(node, RDONLY).unwrap();
    assert_eq!(descriptors_below(&host), 3);
    machine
        .fuse
        .exchange(REQUESTS, &[words(&[40, DESTROY]), vec![0; 32]].concat());
    assert_eq!(descriptors_below(&host), 1);
    machine.fuse.init();
    machine.at("data/file");
}

#[test]
fn files_belong_to_who_made_them() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return eprintln!("skipped: only root acts for others");
    }
    let mut machine = Machine::new();
    let host = machine.share("data", Access::ReadWrite);
    let dir = machine.at("data");
    machine.fuse.uid = 1234;
    machine.fuse.create(dir, "mine", 0o600).unwrap();
    let made = fs::metadata(host.join("mine")).unwrap();
    assert_eq!((made.uid(), made.gid()), (1234, 1234));
    machine.fuse.uid = 0;
    machine.fuse.create(dir, "roots", 0o600).unwrap();
    assert_eq!(fs::metadata(host.join("roots")).unwrap().uid(), 0);
    assert_eq!(
        fs::metadata(host.join("roots"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
}

#[test]
fn the_embedders_umask_is_left_alone() {
    let status = || {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        status
            .lines()
            .find(|line| line.starts_with("Umask"))
            .unwrap()
            .to_owned()
    };
    let before = status();
    let mut machine = Machine::new();
    machine.share("data", Access::ReadWrite);
    let dir = machine.at("data");
    machine.fuse.create(dir, "file", 0o666).unwrap();
    assert_eq!(status(), before);
}

#[test]
fn broken_requests_are_answered_or_dropped() {
    let mut machine = Machine::new();
    machine.share("data", Access::ReadWrite);
    let dir = machine.at("data");
    let fuse = &mut machine.fuse;
    assert!(fuse.call(9999, ROOT, &[]).is_err());
    for node in [0, 2, u64::MAX, 1 << 54 | 99, 500 << 54 | 1] {
        assert!(fuse.call(GETATTR, node, &[0; 16]).is_err(), "{node:x}");
        assert!(fuse.open(node, RDONLY).is_err());
        fuse.forget(node, u64::MAX);
    }
    fuse.exchange(REQUESTS, &[]);
    fuse.exchange(REQUESTS, &[0; 39]);
    fuse.exchange(REQUESTS, &[0xff; 4096]);
    fuse.exchange(HIPRIO, &[0xff; 40]);
    // A directory read with a size beyond all bounds, and a handle of nothing.
    let handle = u64_at(&fuse.call(OPENDIR, dir, &[0; 8]).unwrap(), 0);
    assert!(fuse.read_with(READDIR, dir, handle, u32::MAX).is_err());
    assert!(fuse.read_with(READDIR, dir, handle + 77, 100).is_err());
    assert!(fuse.read_with(READ, dir, u64::MAX, u32::MAX).is_err());
    // Chains that are none.
    let Fuse { driver, .. } = fuse;
    for descriptor in [
        (0, 0, 0, 0),
        (1 << 40, 100, 0, 0),
        (0, 100, driver::NEXT, 0),
    ] {
        driver.queues[REQUESTS].describe(&driver.memory, 0, descriptor);
        fuse_finish(driver);
    }
    machine.at("data");
}

fn fuse_finish(driver: &mut driver::Driver) {
    let driver::Driver { memory, queues, .. } = driver;
    queues[REQUESTS].offer(memory, 0);
    queues[REQUESTS].kick(memory, 1);
    queues[REQUESTS]
        .wait_used(memory, driver::PATIENCE)
        .expect("a used chain");
}

#[test]
fn queues_can_be_stopped_and_started_with_files_open() {
    use vhost::VhostBackend;
    let mut machine = Machine::new();
    let host = machine.share("data", Access::ReadWrite);
    fs::write(host.join("file"), "x").unwrap();
    let node = machine.at("data/file");
    let handle = machine.fuse.open(node, RDONLY).unwrap();
    let driver = &mut machine.fuse.driver;
    let bases: Vec<_> = (0..2)
        .map(|index| u16::try_from(driver.front_end.get_vring_base(index).unwrap()).unwrap())
        .collect();
    let queues = std::mem::take(&mut driver.queues);
    for (index, queue) in queues.iter().enumerate() {
        driver.start_queue(index, queue, bases[index]);
    }
    driver.queues = queues;
    assert_eq!(machine.fuse.read_with(READ, node, handle, 9).unwrap(), b"x");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn no_request_stops_the_device(
        requests in proptest::collection::vec(
            (0u32..52, prop_oneof![Just(ROOT), Just(1 << 54 | 1), any::<u64>()],
             proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..200)), 1..60),
    ) {
        let mut machine = Machine::new();
        machine.share("data", Access::ReadOnly);
        for (opcode, node, body) in requests {
            let length = u32::try_from(40 + body.len()).unwrap();
            let mut message = words(&[length, opcode, 1, 0]);
            message.extend_from_slice(&node.to_le_bytes());
            message.extend_from_slice(&[0; 16]);
            message.extend_from_slice(&body);
            machine.fuse.exchange(REQUESTS, &message);
        }
        machine.at("data");
    }
}

#[test]
fn a_request_that_a_front_end_does_not_wait_for_is_answered_when_it_goes_on() {
    let mut machine = Machine::new();
    let host = machine.share("data", Access::ReadWrite);
    fs::write(host.join("file"), "content").unwrap();
    let node = machine.at("data/file");
    let Some(lease) = lease::Lease::of(&host.join("file")) else {
        return;
    };
    let fuse = &mut machine.fuse;
    fuse.send_slow(OPEN, node, &words(&[RDONLY.cast_unsigned(), 0]));
    // Requests are begun in order.
    fuse.call(GETATTR, ROOT, &[0; 16]).unwrap();
    // As a machine that is paused, and goes on: rings are taken away and given
    // back where they were.
    let base = fuse.driver.front_end.get_vring_base(REQUESTS).unwrap();
    let queue = fuse.driver.queues.remove(REQUESTS);
    let base = u16::try_from(base).unwrap();
    fuse.driver.start_queue(REQUESTS, &queue, base);
    fuse.driver.queues.insert(REQUESTS, queue);
    drop(lease);
    let Fuse { driver, .. } = fuse;
    let answered = driver.queues[REQUESTS].wait_used(&driver.memory, driver::PATIENCE);
    assert_eq!(answered, Some((SLOW, 32)));
}
