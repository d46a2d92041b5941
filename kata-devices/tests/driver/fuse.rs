//! The guest's driver of a shared file system, speaking FUSE.

use std::os::unix::net::UnixStream;

use vm_memory::{Bytes, GuestAddress};

use crate::driver::{Driver, EVENT_IDX, NEXT, PATIENCE, VERSION_1, WRITE};

pub(crate) const HIPRIO: usize = 0;
pub(crate) const REQUESTS: usize = 1;

pub(crate) const LOOKUP: u32 = 1;
pub(crate) const FORGET: u32 = 2;
pub(crate) const GETATTR: u32 = 3;
pub(crate) const SETATTR: u32 = 4;
pub(crate) const READLINK: u32 = 5;
pub(crate) const SYMLINK: u32 = 6;
pub(crate) const MKNOD: u32 = 8;
pub(crate) const MKDIR: u32 = 9;
pub(crate) const UNLINK: u32 = 10;
pub(crate) const RMDIR: u32 = 11;
pub(crate) const RENAME: u32 = 12;
pub(crate) const LINK: u32 = 13;
pub(crate) const OPEN: u32 = 14;
pub(crate) const READ: u32 = 15;
pub(crate) const WRITE_OP: u32 = 16;
pub(crate) const STATFS: u32 = 17;
pub(crate) const RELEASE: u32 = 18;
pub(crate) const FSYNC: u32 = 20;
pub(crate) const SETXATTR: u32 = 21;
pub(crate) const GETXATTR: u32 = 22;
pub(crate) const LISTXATTR: u32 = 23;
pub(crate) const REMOVEXATTR: u32 = 24;
pub(crate) const FLUSH: u32 = 25;
pub(crate) const INIT: u32 = 26;
pub(crate) const OPENDIR: u32 = 27;
pub(crate) const READDIR: u32 = 28;
pub(crate) const RELEASEDIR: u32 = 29;
pub(crate) const FSYNCDIR: u32 = 30;
pub(crate) const ACCESS: u32 = 34;
pub(crate) const CREATE: u32 = 35;
pub(crate) const DESTROY: u32 = 38;
pub(crate) const FALLOCATE: u32 = 43;
pub(crate) const READDIRPLUS: u32 = 44;
pub(crate) const LSEEK: u32 = 46;

const REQUEST_ROOM: u32 = 1 << 20;
const REPLY_ROOM: u32 = 1 << 20;
/// The first descriptor of a slow request.
pub(crate) const SLOW: u16 = 4;
const OUT_HEADER: usize = 16;

pub(crate) struct Fuse {
    pub(crate) driver: Driver,
    request: u64,
    reply: u64,
    unique: u64,
    pub(crate) uid: u32,
}

/// An answer: its body, or the error number.
pub(crate) type Answer = Result<Vec<u8>, i32>;

impl Fuse {
    /// Starts the driver, which has not said anything yet.
    pub(crate) fn without_init(stream: UnixStream) -> Self {
        let mut driver = Driver::new(stream, 2);
        driver.start(VERSION_1 | EVENT_IDX, 2, 64);
        let request = driver.allocate(REQUEST_ROOM as usize);
        let reply = driver.allocate(REPLY_ROOM as usize);
        Self {
            driver,
            request,
            reply,
            unique: 0,
            uid: 0,
        }
    }

    pub(crate) fn init(&mut self) -> Vec<u8> {
        self.call(INIT, 0, &words(&[7, 38, 1 << 20, 0x03ff_ffff]))
            .unwrap()
    }

    /// A request, and its answer.
    pub(crate) fn call(&mut self, opcode: u32, node: u64, body: &[u8]) -> Answer {
        let message = self.message(opcode, node, body);
        let reply = self.exchange(REQUESTS, &message);
        assert_eq!(reply.len(), u32_at(&reply, 0) as usize, "opcode {opcode}");
        assert_eq!(u64_at(&reply, 8), self.unique);
        match u32_at(&reply, 4).cast_signed() {
            0 => Ok(reply[OUT_HEADER..].to_vec()),
            error => Err(-error),
        }
    }

    fn message(&mut self, opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        self.unique += 1;
        let mut message = Vec::new();
        let length = u32::try_from(40 + body.len()).unwrap();
        message.extend_from_slice(&words(&[length, opcode]));
        message.extend_from_slice(&self.unique.to_le_bytes());
        message.extend_from_slice(&node.to_le_bytes());
        message.extend_from_slice(&words(&[self.uid, self.uid, 1, 0]));
        message.extend_from_slice(body);
        message
    }

    /// A request with which the host takes its time: others are answered meanwhile.
    pub(crate) fn send_slow(&mut self, opcode: u32, node: u64, body: &[u8]) {
        let message = self.message(opcode, node, body);
        let length = u32::try_from(message.len()).unwrap();
        let into = self.driver.allocate(8192);
        let Driver { memory, queues, .. } = &mut self.driver;
        memory.write_slice(&message, GuestAddress(into)).unwrap();
        let queue = &mut queues[REQUESTS];
        queue.describe(memory, SLOW, (into, length, NEXT, SLOW + 1));
        queue.describe(memory, SLOW + 1, (into + 4096, 4096, WRITE, 0));
        queue.offer(memory, SLOW);
        queue.kick(memory, 1);
    }

    /// Sends any bytes at all; what comes back.
    pub(crate) fn exchange(&mut self, queue: usize, message: &[u8]) -> Vec<u8> {
        let Driver { memory, queues, .. } = &mut self.driver;
        memory
            .write_slice(message, GuestAddress(self.request))
            .unwrap();
        let length = u32::try_from(message.len()).unwrap();
        queues[queue].describe(memory, 0, (self.request, length, NEXT, 1));
        queues[queue].describe(memory, 1, (self.reply, REPLY_ROOM, WRITE, 0));
        self.finish(queue)
    }

    /// Offers the chain at descriptor 0 and waits for it.
    pub(crate) fn finish(&mut self, queue: usize) -> Vec<u8> {
        let Driver { memory, queues, .. } = &mut self.driver;
        queues[queue].offer(memory, 0);
        queues[queue].kick(memory, 1);
        let (_, length) = queues[queue]
            .wait_used(memory, PATIENCE)
            .expect("an answer");
        let mut reply = vec![0; (length as usize).min(REPLY_ROOM as usize)];
        memory
            .read_slice(&mut reply, GuestAddress(self.reply))
            .unwrap();
        reply
    }

    pub(crate) fn lookup(&mut self, parent: u64, name: &str) -> Result<u64, i32> {
        self.call(LOOKUP, parent, &name_of(name))
            .map(|entry| u64_at(&entry, 0))
    }

    pub(crate) fn forget(&mut self, node: u64, count: u64) {
        let mut message = words(&[48, FORGET]).to_vec();
        message.extend_from_slice(&0u64.to_le_bytes());
        message.extend_from_slice(&node.to_le_bytes());
        message.extend_from_slice(&[0; 16]);
        message.extend_from_slice(&count.to_le_bytes());
        assert!(self.exchange(HIPRIO, &message).is_empty());
    }

    pub(crate) fn open(&mut self, node: u64, flags: i32) -> Result<u64, i32> {
        self.call(OPEN, node, &words(&[flags.cast_unsigned(), 0]))
            .map(|out| u64_at(&out, 0))
    }

    /// `read`, `readdir` and `readdirplus`, as they look the same.
    pub(crate) fn read_with(&mut self, opcode: u32, node: u64, handle: u64, size: u32) -> Answer {
        let mut body = handle.to_le_bytes().to_vec();
        body.extend_from_slice(&0u64.to_le_bytes());
        body.extend_from_slice(&words(&[size, 0, 0, 0, 0, 0]));
        self.call(opcode, node, &body)
    }

    pub(crate) fn write(&mut self, node: u64, handle: u64, bytes: &[u8]) -> Answer {
        let mut body = handle.to_le_bytes().to_vec();
        body.extend_from_slice(&0u64.to_le_bytes());
        body.extend_from_slice(&words(&[u32::try_from(bytes.len()).unwrap(), 0, 0, 0]));
        body.extend_from_slice(&words(&[2, 0]));
        body.extend_from_slice(bytes);
        self.call(WRITE_OP, node, &body)
    }

    pub(crate) fn release(&mut self, opcode: u32, node: u64, handle: u64) -> Answer {
        let mut body = handle.to_le_bytes().to_vec();
        body.extend_from_slice(&[0; 16]);
        self.call(opcode, node, &body)
    }

    pub(crate) fn create(&mut self, parent: u64, name: &str, mode: u32) -> Result<(u64, u64), i32> {
        let flags = (libc_flags::RDWR | libc_flags::CREAT).cast_unsigned();
        let mut body = words(&[flags, mode, 0o022, 0]).to_vec();
        body.extend_from_slice(&name_of(name));
        self.call(CREATE, parent, &body)
            .map(|out| (u64_at(&out, 0), u64_at(&out, 128)))
    }
}

/// Flags of `open` on x86_64 and aarch64.
pub(crate) mod libc_flags {
    pub(crate) const RDONLY: i32 = 0;
    pub(crate) const WRONLY: i32 = 1;
    pub(crate) const RDWR: i32 = 2;
    pub(crate) const CREAT: i32 = 0o100;
    pub(crate) const TRUNC: i32 = 0o1000;
    pub(crate) const APPEND: i32 = 0o2000;
}

pub(crate) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(crate) fn name_of(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
