//! The vsock device through a vhost-user front end, with the guest's driver in
//! the test: real rings, real shared memory, real unix sockets.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

#[path = "driver/mod.rs"]
mod driver;
#[path = "driver/vsock.rs"]
mod guest;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use driver::{EVENT_IDX, INDIRECT, NEXT, PATIENCE, VERSION_1, WRITE};
use guest::{CID, End, INDIRECT_TABLE, Vsock};
use kata_devices::vhost_user::Server;
use kata_devices::vsock::{BUFFER, HEADER_LEN, Header, Operation, VsockConfig};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

const SHUT_RECEIVE: u32 = 1;
const SHUT_SEND: u32 = 2;

/// Long enough to see that nothing comes.
const SILENCE: Duration = Duration::from_millis(100);

struct Machine {
    vsock: Vsock,
    config: VsockConfig,
    _server: Server,
    _dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        Self::with(VERSION_1 | EVENT_IDX | INDIRECT, 128)
    }

    fn with(features: u64, size: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = guest::config(&dir);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = Server::vsock_on(&config, theirs).unwrap();
        let vsock = Vsock::start(ours, features, size);
        Self {
            vsock,
            config,
            _server: server,
            _dir: dir,
        }
    }

    /// The host dials `port`, and the guest hears of it.
    fn dial(&mut self, port: u32) -> (UnixStream, End) {
        let stream = caller(&self.config);
        writeln!(&stream, "CONNECT {port}").unwrap();
        let request = self.vsock.expect(Operation::Request);
        assert_eq!(request.dst_port, port);
        assert!(request.src_port >= 1 << 30);
        assert_eq!(request.buf_alloc, BUFFER);
        (stream, End::new(port, request.src_port))
    }

    /// The same, and the guest accepts.
    fn connect(&mut self, port: u32) -> (UnixStream, End) {
        let (stream, end) = self.dial(port);
        self.vsock.send(&end.header(Operation::Response, 0), &[]);
        assert_eq!(line(&stream), format!("OK {}\n", end.host_port));
        (stream, end)
    }

    fn write(&mut self, end: End, bytes: &[u8]) {
        self.vsock
            .send(&end.header(Operation::ReadWrite, bytes.len()), bytes);
    }

    /// The device still works.
    fn is_alive(&mut self) {
        let probe = End::new(99_999, 4711);
        self.vsock.send(&probe.header(Operation::ReadWrite, 0), &[]);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let (header, _) = self.vsock.receive();
            if header.operation == Some(Operation::Reset) && header.dst_port == 99_999 {
                return;
            }
        }
        panic!("the device answers no more");
    }
}

fn caller(config: &VsockConfig) -> UnixStream {
    let stream = UnixStream::connect(&config.socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn line(mut stream: &UnixStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") && stream.read(&mut byte).unwrap() == 1 {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// The other end is closed; with bytes of ours that it did not read, or without.
fn is_at_end(mut stream: &UnixStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn bytes_go_both_ways_after_the_handshake() {
    for features in [VERSION_1, VERSION_1 | EVENT_IDX] {
        let mut machine = Machine::with(features, 16);
        let (mut host, end) = machine.connect(1024);
        machine.write(end, b"from the guest");
        let mut bytes = [0; 14];
        host.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"from the guest");
        host.write_all(b"from the host").unwrap();
        let (header, bytes) = machine.vsock.receive();
        assert_eq!((header.src_port, header.dst_port), (end.host_port, 1024));
        assert_eq!(header.fwd_cnt, 14);
        assert_eq!(bytes, b"from the host");
    }
}

#[test]
fn what_follows_the_dialling_line_is_for_the_guest() {
    let mut machine = Machine::new();
    let host = caller(&machine.config);
    (&host).write_all(b"CONN").unwrap();
    assert!(machine.vsock.try_receive(SILENCE).is_none());
    (&host).write_all(b"ECT 7\nearly bytes").unwrap();
    let request = machine.vsock.expect(Operation::Request);
    let end = End::new(7, request.src_port);
    machine.vsock.send(&end.header(Operation::Response, 0), &[]);
    assert_eq!(machine.vsock.receive().1, b"early bytes");
}

#[test]
fn callers_that_cannot_speak_are_dropped() {
    let mut machine = Machine::new();
    for words in [
        "HELLO\n",
        "CONNECT 4294967296\n",
        "CONNECT 11111111111111111111111",
    ] {
        let host = caller(&machine.config);
        (&host).write_all(words.as_bytes()).unwrap();
        assert!(is_at_end(&host), "{words}");
    }
    let silent = caller(&machine.config);
    silent.shutdown(Shutdown::Write).unwrap();
    assert!(is_at_end(&silent));
    machine.is_alive();
}

#[test]
fn a_guest_that_refuses_closes_the_callers_stream() {
    let mut machine = Machine::new();
    let (host, end) = machine.dial(9);
    machine.vsock.send(&end.header(Operation::Reset, 0), &[]);
    assert!(is_at_end(&host));
}

#[test]
fn before_the_driver_is_there_callers_are_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let config = guest::config(&dir);
    let _server = Server::vsock(&config, &dir.path().join("vhost")).unwrap();
    let began = Instant::now();
    let host = caller(&config);
    writeln!(&host, "CONNECT 1").unwrap();
    assert!(is_at_end(&host));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_guest_dials_the_socket_of_a_port() {
    let mut machine = Machine::new();
    let end = End::new(5000, 1024);
    machine.vsock.send(&end.header(Operation::Request, 0), &[]);
    assert_eq!(machine.vsock.expect(Operation::Reset).dst_port, 5000);

    let listener = UnixListener::bind(machine.config.host_socket(1024)).unwrap();
    machine.vsock.send(&end.header(Operation::Request, 0), &[]);
    assert_eq!(machine.vsock.expect(Operation::Response).src_port, 1024);
    let (mut host, _) = listener.accept().unwrap();
    machine.write(end, b"ping");
    let mut bytes = [0; 4];
    host.read_exact(&mut bytes).unwrap();
    host.write_all(b"pong").unwrap();
    assert_eq!(machine.vsock.receive().1, b"pong");
}

#[test]
fn the_hosts_half_close_leaves_the_other_half_open() {
    let mut machine = Machine::new();
    let (mut host, end) = machine.connect(1);
    host.write_all(b"last").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    assert_eq!(machine.vsock.receive().1, b"last");
    assert_eq!(machine.vsock.expect(Operation::Shutdown).flags, SHUT_SEND);
    machine.write(end, b"answer");
    machine
        .vsock
        .send(&end.shutdown(SHUT_SEND | SHUT_RECEIVE), &[]);
    machine.vsock.expect(Operation::Reset);
    let mut bytes = Vec::new();
    host.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"answer");
}

#[test]
fn the_guests_half_close_leaves_the_other_half_open() {
    let mut machine = Machine::new();
    let (mut host, end) = machine.connect(1);
    machine.write(end, b"last");
    machine.vsock.send(&end.shutdown(SHUT_SEND), &[]);
    let mut bytes = Vec::new();
    host.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"last");
    host.write_all(b"answer").unwrap();
    assert_eq!(machine.vsock.receive().1, b"answer");
    drop(host);
    assert_eq!(
        machine.vsock.expect(Operation::Shutdown).flags,
        SHUT_SEND | SHUT_RECEIVE
    );
}

#[test]
fn a_guest_that_receives_no_more_stops_the_hosts_writer() {
    let mut machine = Machine::new();
    let (mut host, end) = machine.connect(1);
    machine.vsock.send(&end.shutdown(SHUT_RECEIVE), &[]);
    machine.write(end, b"x");
    host.read_exact(&mut [0; 1]).unwrap();
    let error = loop {
        if let Err(error) = host.write_all(b"unwanted") {
            break error;
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

#[test]
fn a_host_that_goes_away_is_told_to_the_guest() {
    let mut machine = Machine::new();
    let (mut host, end) = machine.connect(1);
    host.write_all(b"bye").unwrap();
    drop(host);
    assert_eq!(machine.vsock.receive().1, b"bye");
    let shutdown = machine.vsock.expect(Operation::Shutdown);
    assert_eq!(shutdown.flags, SHUT_SEND | SHUT_RECEIVE);
    // Bytes that crossed it are lost, the device is not.
    machine.write(end, b"too late");
    machine.vsock.send(&end.header(Operation::Reset, 0), &[]);
    machine.is_alive();
}

#[test]
fn bytes_that_a_slow_host_has_not_read_outlive_the_guests_close() {
    let mut machine = Machine::new();
    let (mut host, end) = machine.connect(1);
    let mut sent = 0;
    // As much as there is credit for: the socket's buffer and the device's.
    loop {
        let chunk = vec![u8::try_from(sent / 4096 % 251).unwrap(); 4096];
        machine.write(end, &chunk);
        sent += chunk.len();
        let mut update = machine.vsock.try_receive(Duration::ZERO);
        while let Some((header, _)) = update {
            assert_eq!(header.operation, Some(Operation::CreditUpdate));
            update = machine.vsock.try_receive(Duration::ZERO);
        }
        if sent >= 340 << 10 {
            break;
        }
    }
    machine
        .vsock
        .send(&end.shutdown(SHUT_SEND | SHUT_RECEIVE), &[]);
    machine.vsock.skip_to(Operation::Reset);
    machine.is_alive();
    let mut bytes = Vec::new();
    host.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), sent);
    assert!(
        bytes
            .iter()
            .enumerate()
            .all(|(at, byte)| usize::from(*byte) == at / 4096 % 251)
    );
}

#[test]
fn a_guest_that_ignores_its_credit_is_reset() {
    let mut machine = Machine::new();
    let (_host, end) = machine.connect(1);
    let chunk = vec![0; 64 << 10];
    let reset = (0..64).any(|_| {
        machine.write(end, &chunk);
        let reply = machine.vsock.try_receive(Duration::from_millis(5));
        reply.is_some_and(|(header, _)| header.operation == Some(Operation::Reset))
    });
    assert!(reset);
    machine.is_alive();
}

#[test]
fn the_guest_hears_of_credit_in_time_and_not_for_every_packet() {
    let mut machine = Machine::new();
    let (mut host, end) = machine.connect(1);
    let mut forwarded = 0u32;
    let mut updates = 0;
    let mut sent = 0u32;
    let mut sink = vec![0; 4096];
    while sent < 2 << 20 {
        while sent.wrapping_sub(forwarded) + 4096 > BUFFER {
            let (header, _) = machine.vsock.receive();
            forwarded = header.fwd_cnt;
            updates += 1;
        }
        machine.write(end, &[7; 4096]);
        sent += 4096;
        host.read_exact(&mut sink).unwrap();
    }
    assert!(
        (1..=60).contains(&updates),
        "{updates} updates for 512 packets"
    );
}

#[test]
fn a_request_for_credit_is_answered() {
    let mut machine = Machine::new();
    let (_host, end) = machine.connect(1);
    machine
        .vsock
        .send(&end.header(Operation::CreditRequest, 0), &[]);
    let update = machine.vsock.expect(Operation::CreditUpdate);
    assert_eq!((update.buf_alloc, update.fwd_cnt), (BUFFER, 0));
}

#[test]
fn the_guests_window_is_honoured() {
    let mut machine = Machine::new();
    let (mut host, mut end) = machine.dial(1);
    end.buf_alloc = 10;
    machine.vsock.send(&end.header(Operation::Response, 0), &[]);
    assert!(line(&host).starts_with("OK"));
    host.write_all(b"0123456789abcdef").unwrap();
    assert_eq!(machine.vsock.receive().1, b"0123456789");
    machine.vsock.expect(Operation::CreditRequest);
    assert!(machine.vsock.try_receive(SILENCE).is_none());
    end.fwd_cnt = 4;
    machine
        .vsock
        .send(&end.header(Operation::CreditUpdate, 0), &[]);
    assert_eq!(machine.vsock.receive().1, b"abcd");
}

#[test]
fn a_stream_without_credit_delays_no_other() {
    let mut machine = Machine::new();
    let (mut stalled, mut end) = machine.dial(1);
    end.buf_alloc = 0;
    machine.vsock.send(&end.header(Operation::Response, 0), &[]);
    assert!(line(&stalled).starts_with("OK"));
    stalled.write_all(b"waits").unwrap();
    machine.vsock.expect(Operation::CreditRequest);
    let (mut other, _) = machine.connect(2);
    other.write_all(b"passes").unwrap();
    assert_eq!(machine.vsock.receive().1, b"passes");
}

#[test]
fn a_megabyte_reaches_the_guest_in_order_through_few_buffers() {
    let mut machine = Machine::with(VERSION_1 | EVENT_IDX, 8);
    let (mut host, mut end) = machine.connect(1);
    let bytes: Vec<u8> = (0..1 << 20)
        .map(|at: u32| u8::try_from(at % 251).unwrap())
        .collect();
    let expected = bytes.clone();
    let writer = std::thread::spawn(move || {
        host.write_all(&bytes).unwrap();
        host
    });
    let mut got = Vec::new();
    while got.len() < expected.len() {
        let (header, payload) = machine.vsock.receive();
        got.extend_from_slice(&payload);
        end.fwd_cnt = u32::try_from(got.len()).unwrap();
        if header.operation == Some(Operation::CreditRequest) || got.len() % (64 << 10) < 4096 {
            machine
                .vsock
                .send(&end.header(Operation::CreditUpdate, 0), &[]);
        }
    }
    assert!(got == expected);
    drop(writer.join().unwrap());
}

#[test]
fn strays_are_refused_and_refusals_are_not() {
    let mut machine = Machine::new();
    let end = End::new(1, 2);
    machine.vsock.send(&end.header(Operation::Reset, 0), &[]);
    machine.vsock.send(
        &Header {
            src_cid: 77,
            ..end.header(Operation::Request, 0)
        },
        &[],
    );
    assert!(machine.vsock.try_receive(SILENCE).is_none());
    for stray in [
        end.header(Operation::Response, 0),
        end.shutdown(SHUT_SEND),
        Header {
            kind: 2,
            ..end.header(Operation::Request, 0)
        },
        Header {
            dst_cid: 5,
            ..end.header(Operation::Request, 0)
        },
        Header {
            operation: None,
            ..end.header(Operation::Request, 0)
        },
    ] {
        machine.vsock.send(&stray, &[]);
        machine.vsock.expect(Operation::Reset);
    }
}

#[test]
fn broken_chains_are_given_back_and_the_device_lives_on() {
    let mut machine = Machine::new();
    let header = u32::try_from(HEADER_LEN).unwrap();
    let at = machine.vsock.driver.allocate(1 << 16);
    let chains: &[&[driver::Descriptor]] = &[
        // Nothing, too little, in pieces too small.
        &[(at, 0, 0, 0)],
        &[(at, header - 1, 0, 0)],
        // Outside of memory, or across its end.
        &[(1 << 40, header, 0, 0)],
        &[(48 << 20, header, 0, 0)],
        &[((48 << 20) - 4, header, 0, 0)],
        &[(u64::MAX - 3, header, 0, 0)],
        &[(at, u32::MAX, 0, 0)],
        // A loop, and a next that is no descriptor.
        &[(at, 4, NEXT, 0)],
        &[(at, 4, NEXT, 1), (at, 4, NEXT, 0)],
        &[(at, header, NEXT, 60_000)],
        // The wrong direction.
        &[(at, header, WRITE, 0)],
        &[(at, header, NEXT, 1), (at, 100, WRITE, 0)],
        // Indirect tables: odd, outside, nested, empty.
        &[(at, 17, INDIRECT_TABLE, 0)],
        &[(1 << 40, 32, INDIRECT_TABLE, 0)],
        &[(at, 0, INDIRECT_TABLE, 0)],
        &[(
            machine.vsock.driver.queues[1].descriptors,
            64,
            INDIRECT_TABLE,
            0,
        )],
    ];
    for chain in chains {
        machine.vsock.send_raw(chain);
    }
    // A header that claims more than there is.
    let lie = End::new(1, 2).header(Operation::ReadWrite, 5);
    machine
        .vsock
        .driver
        .memory
        .write_slice(&lie.to_bytes(), GuestAddress(at))
        .unwrap();
    machine.vsock.send_raw(&[(at, header + 4, 0, 0)]);
    assert!(machine.vsock.try_receive(SILENCE).is_none());
    machine.is_alive();
}

#[test]
fn a_packet_in_an_indirect_table_and_in_pieces_is_one_packet() {
    let mut machine = Machine::new();
    let (mut host, end) = machine.connect(1);
    let at = machine.vsock.driver.allocate(1 << 16);
    let memory = machine.vsock.driver.memory.clone();
    let header = end.header(Operation::ReadWrite, 6).to_bytes();
    memory.write_slice(&header, GuestAddress(at)).unwrap();
    memory
        .write_slice(b"abcdefgh", GuestAddress(at + 100))
        .unwrap();
    let table = at + 4096;
    driver::write_descriptor(&memory, table, (at, 20, NEXT, 1));
    driver::write_descriptor(&memory, table + 16, (at + 20, 24, NEXT, 2));
    driver::write_descriptor(&memory, table + 32, (at + 100, 2, NEXT, 3));
    driver::write_descriptor(&memory, table + 48, (at + 102, 6, 0, 0));
    machine.vsock.send_raw(&[(table, 64, INDIRECT_TABLE, 0)]);
    let mut bytes = [0; 6];
    host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"abcdef");
}

#[test]
fn streams_survive_a_pause_and_end_with_a_new_driver() {
    use vhost::VhostBackend;
    let mut machine = Machine::new();
    let (mut host, end) = machine.connect(1);
    host.set_read_timeout(Some(PATIENCE)).unwrap();
    let driver = &mut machine.vsock.driver;
    let bases: Vec<u16> = (0..2)
        .map(|queue| u16::try_from(driver.front_end.get_vring_base(queue).unwrap()).unwrap())
        .collect();
    let waiting = caller(&machine.config);
    writeln!(&waiting, "CONNECT 5").unwrap();
    // Whose line makes no sense is turned away when it is heard: after the other.
    let senseless = caller(&machine.config);
    writeln!(&senseless, "CONNECT").unwrap();
    assert!(is_at_end(&senseless));
    let driver = &mut machine.vsock.driver;
    let queues = std::mem::take(&mut driver.queues);
    for (index, queue) in queues.iter().enumerate() {
        driver.start_queue(index, queue, bases[index]);
    }
    driver.queues = queues;
    machine.write(end, b"still here");
    let mut bytes = [0; 10];
    host.read_exact(&mut bytes).unwrap();
    let call = machine.vsock.skip_to(Operation::Request);
    assert_eq!(call.dst_port, 5);
    let answer = End::new(5, call.src_port);
    machine
        .vsock
        .send(&answer.header(Operation::Response, 0), &[]);
    assert_eq!(line(&waiting), format!("OK {}\n", call.src_port));

    let driver = &mut machine.vsock.driver;
    for index in 0..2 {
        driver.front_end.get_vring_base(index).unwrap();
    }
    driver.queues.clear();
    driver.start(VERSION_1, 2, 16);
    assert!(is_at_end(&host));
}

#[test]
fn too_many_streams_are_refused() {
    let mut machine = Machine::new();
    let listener = UnixListener::bind(machine.config.host_socket(1)).unwrap();
    let acceptor = std::thread::spawn(move || {
        let mut streams = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            let mut byte = [0];
            if stream.read(&mut byte).is_ok_and(|count| count == 1) {
                return streams.len();
            }
            streams.push(stream);
        }
        0
    });
    drop(acceptor);
    let mut refused = 0;
    for port in 0..1100 {
        machine.vsock.send(
            &End::new(10_000 + port, 1).header(Operation::Request, 0),
            &[],
        );
        let (header, _) = machine.vsock.receive();
        refused += u32::from(header.operation == Some(Operation::Reset));
    }
    assert!(refused >= 76, "{refused}");
    machine.is_alive();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_packets_stops_the_device(
        packets in proptest::collection::vec(
            (0u16..9, 0u32..4, 0u32..3, any::<u32>(), any::<u32>(), 0usize..5000, 0u8..20), 1..120),
    ) {
        let mut machine = Machine::new();
        let _listener = UnixListener::bind(machine.config.host_socket(1)).unwrap();
        let (_host, end) = machine.connect(2);
        for (operation, flags, port, buf_alloc, fwd_cnt, length, odd) in packets {
            let host_port = if port == 2 { end.host_port } else { port };
            let mut bytes = Header {
                src_cid: if odd == 1 { 9 } else { CID },
                dst_cid: if odd == 2 { 9 } else { 2 },
                src_port: if port == 2 { 2 } else { 3000 + u32::from(odd) },
                dst_port: host_port,
                len: u32::try_from(length).unwrap(),
                kind: if odd == 3 { 2 } else { 1 },
                operation: None,
                flags,
                buf_alloc,
                fwd_cnt,
            }
            .to_bytes();
            bytes[30..32].copy_from_slice(&operation.to_le_bytes());
            let header = Header::from_bytes(&bytes);
            machine.vsock.send(&header, &vec![odd; length]);
            while machine.vsock.try_receive(Duration::ZERO).is_some() {}
        }
        machine.is_alive();
    }

    #[test]
    fn no_descriptor_chain_stops_the_device(
        chains in proptest::collection::vec(
            proptest::collection::vec(
                (prop_oneof![0u64..0x40_0000, Just(1u64 << 30), any::<u64>()],
                 prop_oneof![0u32..5000, any::<u32>()], 0u16..8, 0u16..6), 1..5), 1..40),
    ) {
        let mut machine = Machine::with(VERSION_1 | INDIRECT, 128);
        for chain in &chains {
            machine.vsock.send_raw(chain);
        }
        machine.is_alive();
    }
}
