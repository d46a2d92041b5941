//! The guest's driver of a vsock device.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use kata_devices::vsock::{HEADER_LEN, Header, Operation, VsockConfig};
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserConfigFlags;
use vm_memory::{Bytes, GuestAddress};

use crate::driver::{Descriptor, Driver, NEXT, PATIENCE, SECOND_REGION, WRITE};

pub(crate) const RX: usize = 0;
pub(crate) const TX: usize = 1;
pub(crate) const CID: u64 = 3;

/// `VIRTQ_DESC_F_INDIRECT`.
pub(crate) const INDIRECT_TABLE: u16 = 4;

/// Room in a receive buffer, as Linux has it.
const RX_BUFFER: u32 = 4096;
const TX_BUFFER: u64 = 66 << 10;

pub(crate) struct Vsock {
    pub(crate) driver: Driver,
    free: Vec<u16>,
    rx_buffers: u64,
}

pub(crate) fn config(dir: &tempfile::TempDir) -> VsockConfig {
    VsockConfig {
        guest_cid: CID,
        socket: dir.path().join("vsock"),
    }
}

impl Vsock {
    /// A driver whose device has features `features` and queues of `size`.
    pub(crate) fn start(stream: UnixStream, features: u64, size: u16) -> Self {
        let mut driver = Driver::new(stream, 2);
        let flags = VhostUserConfigFlags::WRITABLE;
        let (_, config) = driver.front_end.get_config(0, 8, flags, &[0; 8]).unwrap();
        assert_eq!(config, CID.to_le_bytes());
        driver.start(features, 2, size);
        let rx_buffers = driver.allocate(usize::from(size) * RX_BUFFER as usize);
        let mut vsock = Self {
            driver,
            free: (0..size).collect(),
            rx_buffers,
        };
        for index in 0..size {
            vsock.offer_rx(index);
        }
        vsock.kick(RX, size);
        vsock
    }

    pub(crate) fn kick(&mut self, queue: usize, offered: u16) {
        let Driver { memory, queues, .. } = &mut self.driver;
        queues[queue].kick(memory, offered);
    }

    fn offer_rx(&mut self, index: u16) {
        let Driver { memory, queues, .. } = &mut self.driver;
        let at = self.rx_buffers + u64::from(index) * u64::from(RX_BUFFER);
        queues[RX].describe(memory, index, (at, RX_BUFFER, WRITE, 0));
        queues[RX].offer(memory, index);
    }

    /// Offers a transmit chain of these descriptors, as they are.
    pub(crate) fn send_raw(&mut self, chain: &[Descriptor]) {
        let Driver { memory, queues, .. } = &mut self.driver;
        for (at, descriptor) in chain.iter().enumerate() {
            queues[TX].describe(memory, u16::try_from(at).unwrap(), *descriptor);
        }
        queues[TX].offer(memory, 0);
        self.kick(TX, 1);
        self.driver.queues[TX]
            .wait_used(&self.driver.memory, PATIENCE)
            .expect("a used chain");
    }

    /// Sends a packet; waits for room in the queue, not for the device.
    pub(crate) fn send(&mut self, header: &Header, payload: &[u8]) {
        let head = self.free_descriptor();
        let Driver { memory, queues, .. } = &mut self.driver;
        let at = SECOND_REGION + TX_BUFFER * u64::from(head / 2);
        memory
            .write_slice(&header.to_bytes(), GuestAddress(at))
            .unwrap();
        let header_len = u32::try_from(HEADER_LEN).unwrap();
        if payload.is_empty() {
            queues[TX].describe(memory, head, (at, header_len, 0, 0));
        } else {
            memory.write_slice(payload, GuestAddress(at + 64)).unwrap();
            let length = u32::try_from(payload.len()).unwrap();
            queues[TX].describe(memory, head, (at, header_len, NEXT, head + 1));
            queues[TX].describe(memory, head + 1, (at + 64, length, 0, 0));
        }
        queues[TX].offer(memory, head);
        self.kick(TX, 1);
    }

    /// An even descriptor whose pair is free.
    fn free_descriptor(&mut self) -> u16 {
        loop {
            if let Some(at) = self.free.iter().position(|index| index % 2 == 0) {
                return self.free.swap_remove(at);
            }
            let Driver { memory, queues, .. } = &mut self.driver;
            let (head, _) = queues[TX]
                .wait_used(memory, PATIENCE)
                .expect("a used chain");
            self.free.push(head);
            while let Some((head, _)) = queues[TX].used(memory) {
                self.free.push(head);
            }
        }
    }

    /// The next packet; panics when there is none for a long time.
    pub(crate) fn receive(&mut self) -> (Header, Vec<u8>) {
        self.try_receive(PATIENCE).expect("a packet")
    }

    /// The next packet, or nothing for that long.
    pub(crate) fn try_receive(&mut self, patience: Duration) -> Option<(Header, Vec<u8>)> {
        let Driver { memory, queues, .. } = &mut self.driver;
        let (index, length) = queues[RX].wait_used(memory, patience)?;
        let at = self.rx_buffers + u64::from(index) * u64::from(RX_BUFFER);
        let mut bytes = vec![0; length as usize];
        memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        let header = Header::from_bytes(bytes[..HEADER_LEN].try_into().unwrap());
        assert_eq!((header.dst_cid, header.kind), (CID, 1));
        assert_eq!(header.len as usize, bytes.len() - HEADER_LEN);
        self.offer_rx(index);
        self.kick(RX, 1);
        Some((header, bytes.split_off(HEADER_LEN)))
    }

    /// The next packet that is `operation`.
    pub(crate) fn skip_to(&mut self, operation: Operation) -> Header {
        loop {
            let (header, _) = self.receive();
            if header.operation == Some(operation) {
                return header;
            }
        }
    }

    /// The next packet, which must be `operation`.
    pub(crate) fn expect(&mut self, operation: Operation) -> Header {
        let (header, _) = self.receive();
        assert_eq!(header.operation, Some(operation), "{header:?}");
        header
    }
}

/// The guest's end of a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) guest_port: u32,
    pub(crate) host_port: u32,
    pub(crate) buf_alloc: u32,
    pub(crate) fwd_cnt: u32,
}

impl End {
    pub(crate) fn new(guest_port: u32, host_port: u32) -> Self {
        Self {
            guest_port,
            host_port,
            buf_alloc: 256 << 10,
            fwd_cnt: 0,
        }
    }

    pub(crate) fn header(&self, operation: Operation, len: usize) -> Header {
        Header {
            src_cid: CID,
            dst_cid: 2,
            src_port: self.guest_port,
            dst_port: self.host_port,
            len: u32::try_from(len).unwrap(),
            kind: 1,
            operation: Some(operation),
            flags: 0,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.fwd_cnt,
        }
    }

    pub(crate) fn shutdown(&self, flags: u32) -> Header {
        Header {
            flags,
            ..self.header(Operation::Shutdown, 0)
        }
    }
}
