//! What device models cost: queues, requests, packets and frames, through real
//! rings in real guest memory, without threads and without a guest.
//!
//! `cargo bench -p kata-devices --features testing`
#![expect(
    clippy::unwrap_used,
    missing_docs,
    reason = "a step that fails ends the bench; criterion's macros make functions"
)]

use std::hint::black_box;
use std::io::Read;
use std::os::unix::net::{UnixDatagram, UnixListener};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kata_devices::blk::{BlkConfig, IoEngine, parse_for_tests};
use kata_devices::net::{Link, NetConfig};
use kata_devices::testing::{Arena, DriverQueue, MmioDriver, Stepper, WRITE, stepped};
use kata_devices::vsock::{Header, Operation, VsockConfig};

const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;
const MERGEABLE: u64 = 1 << 15;
const FLUSH: u64 = 1 << 9;

fn queue(c: &mut Criterion) {
    let mut arena = Arena::new();
    let mut driver = DriverQueue::new(&mut arena, 256, true);
    let mut device = driver.device_queue();
    let memory = arena.memory();
    driver.describe(0, (0x1000, 512, 0, 0));
    c.bench_function("queue_pop_push", |b| {
        b.iter(|| {
            driver.offer(0);
            let chain = device.queue.pop(memory).unwrap().unwrap();
            device
                .queue
                .complete(memory, chain.head_index(), 0)
                .unwrap();
            black_box(driver.used());
        });
    });
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    header
}

fn blk_parse(c: &mut Criterion) {
    let mut arena = Arena::new();
    let mut driver = DriverQueue::new(&mut arena, 256, false);
    let mut device = driver.device_queue();
    let head = arena.place(&header(0, 8));
    let data = arena.allocate(4097);
    c.bench_function("blk_parse", |b| {
        b.iter(|| {
            let chain = [(head, 16, 0), (data, 4096, WRITE), (data + 4096, 1, WRITE)];
            driver.send(0, &chain);
            assert_eq!(parse_for_tests(&mut device, 1 << 20), Some(true));
        });
    });
}

fn started(
    stepped: (Box<dyn kata_devices::virtio::VirtioDevice>, Stepper),
    features: u64,
) -> (MmioDriver, Stepper) {
    let (device, stepper) = stepped;
    let mut driver = MmioDriver::new(device);
    driver.start(VERSION_1 | features, 256);
    (driver, stepper)
}

fn blk_execute(c: &mut Criterion) {
    let mut group = c.benchmark_group("blk_read_4k");
    group.throughput(Throughput::Bytes(4096));
    for (name, engine) in [
        ("sequential", IoEngine::Sequential),
        ("io_uring", IoEngine::IoUring),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        let mut config = BlkConfig::new(file.path());
        config.engine = engine;
        let device = match stepped::blk(&config) {
            Ok(device) => device,
            Err(error) => {
                eprintln!("skipped: {name}: {error}");
                continue;
            }
        };
        let (mut driver, stepper) = started(device, EVENT_IDX | FLUSH);
        let head = driver.arena.place(&header(0, 8));
        let data = driver.arena.allocate(4097);
        group.bench_function(name, |b| {
            b.iter(|| {
                let chain = [(head, 16, 0), (data, 4096, WRITE), (data + 4096, 1, WRITE)];
                driver.queues[0].send(0, &chain);
                driver.queues[0].kick.signal();
                while driver.queues[0].used().is_none() {
                    stepper.step();
                }
            });
        });
    }
}

fn net(c: &mut Criterion) {
    let mut group = c.benchmark_group("net_frame_1500");
    group.throughput(Throughput::Bytes(1514));
    let (wire, port) = UnixDatagram::pair().unwrap();
    let config = NetConfig::new(Link::Packets(vec![port.into()]));
    let (mut driver, stepper) = started(stepped::net(config).unwrap(), EVENT_IDX | MERGEABLE);
    let frame = vec![0; 1526];
    let out = driver.arena.place(&frame);
    let into = driver.arena.allocate(2048);
    let mut heard = vec![0; 2048];
    group.bench_function("transmit", |b| {
        b.iter(|| {
            driver.queues[1].send(0, &[(out, 1526, 0)]);
            driver.queues[1].kick.signal();
            stepper.step();
            assert!(driver.queues[1].used().is_some());
            wire.recv(&mut heard).unwrap();
        });
    });
    group.bench_function("receive", |b| {
        b.iter(|| {
            wire.send(&frame).unwrap();
            driver.queues[0].send(0, &[(into, 2048, WRITE)]);
            driver.queues[0].kick.signal();
            stepper.step();
            assert!(driver.queues[0].used().is_some());
        });
    });
}

fn vsock(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let config = VsockConfig {
        guest_cid: 3,
        socket: dir.path().join("vsock"),
    };
    let listener = UnixListener::bind(config.host_socket(9)).unwrap();
    let (mut driver, stepper) = started(stepped::vsock(&config).unwrap(), EVENT_IDX);
    let into = driver.arena.allocate(256 * 4096);
    for (index, at) in (0..128).zip((into..).step_by(4096)) {
        driver.queues[0].send(index, &[(at, 4096, WRITE)]);
    }
    let mut packet = Header {
        src_cid: 3,
        dst_cid: 2,
        src_port: 1000,
        dst_port: 9,
        len: 0,
        kind: 1,
        operation: Some(Operation::Request),
        flags: 0,
        buf_alloc: 1 << 30,
        fwd_cnt: 0,
    };
    let send = |driver: &mut MmioDriver, packet: &Header, payload: u64, length: u32| {
        let head = driver.arena.place(&packet.to_bytes());
        driver.queues[1].send(0, &[(head, 44, 0), (payload, length, 0)]);
        driver.queues[1].kick.signal();
        stepper.step();
        while driver.queues[1].used().is_some() {}
        // Buffers with credit updates go back.
        while let Some((head, _)) = driver.queues[0].used() {
            driver.queues[0].offer(head);
        }
        driver.arena.clear();
    };
    send(&mut driver, &packet, 0x1000, 0);
    let (mut host, _) = listener.accept().unwrap();
    packet.operation = Some(Operation::ReadWrite);
    packet.len = 4096;
    let mut heard = vec![0; 4096];
    let mut group = c.benchmark_group("vsock_packet_4k");
    group.throughput(Throughput::Bytes(4096));
    group.bench_function("guest_to_host", |b| {
        b.iter(|| {
            send(&mut driver, &packet, into, 4096);
            host.read_exact(&mut heard).unwrap();
        });
    });
}

criterion_group!(devices, queue, blk_parse, blk_execute, net, vsock);
criterion_main!(devices);
