//! Requests that the host takes long for.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::{Access, FsConfig, SharedTree};
use crate::testing::{MmioDriver, WRITE};
use crate::virtio::ThreadStart;

#[path = "../../tests/driver/lease.rs"]
mod lease;
use lease::Lease;

const PATIENCE: Duration = Duration::from_secs(60);
const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const INIT: u32 = 26;

/// A shared file, which a guest has looked up.
struct Guest {
    driver: MmioDriver,
    dir: tempfile::TempDir,
    file: u64,
}

impl Guest {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "content").unwrap();
        let tree = SharedTree::new().unwrap();
        tree.share("data", dir.path(), Access::ReadWrite).unwrap();
        let tag = "files".to_owned();
        let device = FsConfig { tag, tree }.device(&ThreadStart::default());
        let driver = MmioDriver::new(device.unwrap());
        let mut guest = Self {
            driver,
            dir,
            file: 0,
        };
        guest.begin();
        guest
    }

    /// As a kernel that has just booted.
    fn begin(&mut self) {
        self.driver.start(1 << 32 | 1 << 29, 64);
        let init = [7u32, 38, 1 << 20, 0].map(u32::to_le_bytes).concat();
        self.ask(INIT, 0, &init);
        let data = self.node(1, b"data\0");
        self.file = self.node(data, b"file\0");
    }

    fn lease(&self) -> Option<Lease> {
        Lease::of(&self.dir.path().join("file"))
    }

    /// Sends a request in the chain that begins at `head`; where its answer will be.
    fn send(&mut self, head: u16, opcode: u32, node: u64, body: &[u8]) -> u64 {
        let length = 40 + u32::try_from(body.len()).unwrap();
        let mut bytes = [length, opcode].map(u32::to_le_bytes).concat();
        bytes.extend(u64::from(head).to_le_bytes());
        bytes.extend(node.to_le_bytes());
        bytes.extend([0; 16]);
        bytes.extend(body);
        let arena = &mut self.driver.arena;
        let (at, into) = (arena.place(&bytes), arena.allocate(4096));
        self.driver.queues[1].send(head, &[(at, length, 0), (into, 4096, WRITE)]);
        self.driver.queues[1].kick(1);
        into
    }

    /// Sends a request, and waits for its answer.
    fn ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> u64 {
        let into = self.send(0, opcode, node, body);
        let (head, _) = self.driver.wait_used(1, PATIENCE).expect("an answer");
        assert_eq!((head, self.error(into)), (0, 0), "opcode {opcode}");
        into
    }

    fn error(&self, answer: u64) -> u32 {
        u32::from_le_bytes(self.driver.arena.read(answer + 4, 4).try_into().unwrap())
    }

    fn node(&mut self, parent: u64, name: &[u8]) -> u64 {
        let into = self.ask(LOOKUP, parent, name);
        u64::from_le_bytes(self.driver.arena.read(into + 16, 8).try_into().unwrap())
    }

    /// Opens the file, which takes as long as there is a lease; and waits until the
    /// host is at it.
    fn open_slowly(&mut self) -> u64 {
        let into = self.send(10, OPEN, self.file, &[0; 8]);
        // Requests are begun in order, each by a thread of its own.
        self.ask(GETATTR, 1, &[0; 16]);
        into
    }
}

#[test]
fn a_request_slower_than_a_pause_is_answered_all_the_same() {
    let mut guest = Guest::new();
    let Some(lease) = guest.lease() else {
        return;
    };
    let answer = guest.open_slowly();
    let error = guest.driver.transport.pause().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
    // Nothing was paused: the guest is served.
    guest.ask(GETATTR, 1, &[0; 16]);
    drop(lease);
    let (head, length) = guest.driver.wait_used(1, PATIENCE).expect("an answer");
    assert_eq!((head, length, guest.error(answer)), (10, 32, 0));
    guest.driver.transport.pause().unwrap();
    guest.driver.transport.resume().unwrap();
    guest.ask(GETATTR, 1, &[0; 16]);
}

#[test]
fn a_reset_does_not_wait_for_ever_and_late_answers_are_nobodys() {
    let mut guest = Guest::new();
    let Some(lease) = guest.lease() else {
        return;
    };
    guest.open_slowly();
    let began = std::time::Instant::now();
    guest.driver.write(0x70, 0);
    assert!(began.elapsed() < Duration::from_secs(20));
    guest.driver.arena.clear();
    guest.driver.start(1 << 32 | 1 << 29, 64);
    drop(lease);
    // Whose answers come in order: the one of before is not among them.
    guest.begin();
    for _ in 0..20 {
        guest.ask(GETATTR, 1, &[0; 16]);
    }
}

#[test]
fn a_device_that_has_ended_touches_no_file_any_more() {
    let mut guest = Guest::new();
    let Some(lease) = guest.lease() else {
        return;
    };
    guest.open_slowly();
    let (ended, ends) = channel();
    let ending = std::thread::spawn(move || {
        guest.driver.transport.end();
        ended.send(()).unwrap();
        // What is left are registers.
        assert_eq!(guest.driver.read(0x70) & 64, 64);
        guest.driver.start(1 << 32, 64);
        guest.driver.transport.pause().unwrap();
        guest.driver.transport.end();
    });
    // Longer than anybody's patience.
    let early = ends.recv_timeout(Duration::from_secs(8));
    assert_eq!(early, Err(RecvTimeoutError::Timeout));
    drop(lease);
    ends.recv_timeout(PATIENCE).expect("it ends");
    ending.join().unwrap();
}
