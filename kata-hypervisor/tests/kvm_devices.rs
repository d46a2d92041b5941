//! Every class of device under the host's own KVM, behind registers in memory and
//! on a PCI bus: guests of our own drive them, and bytes are checked at both ends.
#![cfg(all(feature = "kvm", target_arch = "x86_64"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "payload/bench.rs"]
mod bench;
mod payload;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::sync::Arc;

use bench::{Bench, ending};
use kata_devices::balloon::BalloonConfig;
use kata_devices::fs::{Access, FsConfig, SharedTree};
use kata_devices::net::{Link, NetConfig, Tap};
use kata_devices::vhost_user::Server;
use kata_devices::vsock::VsockConfig;
use kata_hypervisor::kvm::{Kvm, MemoryBacking, Transports};
use kata_hypervisor::{
    ConsoleConfig, DiskConfig, Error, Hypervisor, NicBackend, NicConfig, VmExit,
};
use payload::pci::Function;
use payload::queue::{Device, Ring, WRITE};
use payload::{DATA, INTERRUPTS, Payload};

/// The first device, by each way to find it.
const WAYS: [(Transports, Device); 2] = [
    (Transports::Mmio, Device::Mmio(0xd000_0000, 5)),
    (Transports::Pci, Device::Pci(Function(1))),
];
/// Two queues, and what lies beside them.
const FIRST: Ring = ring(0);
const SECOND: Ring = ring(1);
const BUFFERS: u32 = DATA + 0x4000;

const fn ring(queue: u32) -> Ring {
    Ring {
        queue,
        page: DATA + queue * 0x1000,
    }
}

/// A bench whose guests find devices in this way; `None` where there is no KVM.
async fn bench(transports: Transports) -> Option<Bench> {
    Bench::with(|kvm| kvm.transports(transports)).await
}

/// Writes numbers as devices read them.
fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[tokio::test]
async fn entropy_comes_through_a_queue_and_its_interrupt_too() {
    for (transports, device) in WAYS {
        let Some(mut bench) = bench(transports).await else {
            return;
        };
        bench.devices.rng = true;
        let payload = Payload::default().data(BUFFERS, [0; 64]);
        let payload = FIRST.with_chains(payload, &[&[(BUFFERS, 64, WRITE)]]);
        let payload = device.start(device.interrupts(payload), &[FIRST]);
        let payload = device
            .kick(payload, FIRST)
            .wait_for(INTERRUPTS, 1)
            .wait_for(FIRST.used_index(), 1)
            .show(BUFFERS, 64)
            .reset();
        let (said, exit) = bench.run(&payload).await;
        assert_eq!((said.len(), exit), (64, VmExit::Reset));
        let zeroes = said.iter().filter(|byte| **byte == 0).count();
        assert!(zeroes < 16, "{said:?}");
    }
}

#[tokio::test]
async fn a_disk_is_read_and_written() {
    for (transports, device) in WAYS {
        let Some(mut bench) = bench(transports).await else {
            return;
        };
        let path = bench.path().join("disk");
        let content: Vec<u8> = (b'a'..=b'h').flat_map(|letter| [letter; 512]).collect();
        fs::write(&path, &content).unwrap();
        bench.devices.disks.push(DiskConfig {
            id: "d".to_owned(),
            path: path.clone(),
            read_only: false,
        });
        let request = |kind: u32, sector: u32| words(&[kind, 0, sector, 0]);
        let (read, write, status) = (BUFFERS, BUFFERS + 0x100, BUFFERS + 0x600);
        let (into, from) = (BUFFERS + 0x200, BUFFERS + 0x400);
        let payload = Payload::default()
            .data(read, request(0, 1))
            .data(write, request(1, 2))
            .data(into, [0; 512])
            .data(from, [b'X'; 512])
            .data(status, [0xff; 2]);
        let payload = FIRST.with_chains(
            payload,
            &[
                &[(read, 16, 0), (into, 512, WRITE), (status, 1, WRITE)],
                &[(write, 16, 0), (from, 512, 0), (status + 1, 1, WRITE)],
            ],
        );
        let payload = device.start(payload, &[FIRST]);
        let payload = device
            .kick(payload, FIRST)
            .wait_for(FIRST.used_index(), 2)
            .show(status, 2)
            .show(into, 512)
            .reset();
        let (said, _) = bench.run(&payload).await;
        assert_eq!(said[..2], [0, 0], "both went well");
        assert_eq!(said[2..], [b'b'; 512]);
        let written = fs::read(path).unwrap();
        assert_eq!(written[1024..1536], [b'X'; 512]);
        assert_eq!(
            (&written[..1024], &written[1536..]),
            (&content[..1024], &content[1536..])
        );
    }
}

/// A frame with this in it.
fn frame(letter: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00];
    frame.resize(60, letter);
    frame
}

/// What precedes a frame in a buffer (virtio 1.2 §5.1.6).
const NET_HEADER: usize = 12;

/// A guest that sends a frame and shows the one that it gets.
fn card_driver(device: Device) -> Payload {
    let sent = [vec![0; NET_HEADER], frame(b'g')].concat();
    let (into, from) = (BUFFERS, BUFFERS + 0x1000);
    let length = u32::try_from(sent.len()).unwrap();
    let payload = Payload::default().data(into, [0; 2048]).data(from, sent);
    let payload = FIRST.with_chains(payload, &[&[(into, 2048, WRITE)]]);
    let payload = SECOND.with_chains(payload, &[&[(from, length, 0)]]);
    let payload = device.start_with(payload, &[FIRST, SECOND], 1 << 5);
    let payload = device.kick(device.kick(payload, FIRST), SECOND);
    payload
        .wait_for(SECOND.used_index(), 1)
        .wait_for(FIRST.used_index(), 1)
        .show(device.config(), 6)
        .show(into, length)
        .reset()
}

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Runs that guest, and talks to it at the other end of its card.
async fn exchange_frames(bench: &Bench, device: Device, mut ours: UnixStream) {
    let vm = bench.start(&card_driver(device)).await;
    let mut heard = [0; 64];
    let reply = frame(b'h');
    let talk = tokio::task::spawn_blocking(move || {
        ours.read_exact(&mut heard).unwrap();
        ours.write_all(&60u32.to_be_bytes()).unwrap();
        ours.write_all(&reply).unwrap();
        (heard, ours)
    });
    let exit = ending(&*vm).await;
    let (heard, _ours) = talk.await.unwrap();
    assert_eq!(exit, VmExit::Reset);
    assert_eq!(heard[..4], 60u32.to_be_bytes());
    assert_eq!(heard[4..], frame(b'g'));
    let said = vm.console_tail();
    assert_eq!(said[..6], MAC);
    assert_eq!(said[6 + NET_HEADER..], frame(b'h'));
}

#[tokio::test]
async fn frames_go_and_come() {
    for (transports, device) in WAYS {
        let Some(mut bench) = bench(transports).await else {
            return;
        };
        let (ours, theirs) = UnixStream::pair().unwrap();
        let backend = NicBackend::Stream(Arc::new(OwnedFd::from(theirs)));
        bench.devices.nics.push(NicConfig::new(MAC, 1400, backend));
        exchange_frames(&bench, device, ours).await;
    }
}

#[tokio::test]
async fn a_back_end_of_another_process_serves_a_card() {
    for (transports, device) in WAYS {
        let Some(mut bench) = bench(transports).await else {
            return;
        };
        let (ours, theirs) = UnixStream::pair().unwrap();
        let socket = bench.path().join("net");
        let served = NetConfig::new(Link::Stream(theirs.into()));
        let _server = Server::net(served, &socket).unwrap();
        let backend = NicBackend::VhostUser { socket, queues: 1 };
        bench.devices.nics.push(NicConfig::new(MAC, 1400, backend));
        exchange_frames(&bench, device, ours).await;
    }
}

#[tokio::test]
async fn what_a_vhost_user_card_cannot_be_is_refused() {
    let Some(mut bench) = Bench::new().await else {
        return;
    };
    let refused = async |bench: &Bench, kvm: &Kvm, queues: usize| {
        let mut config = bench.config(&Payload::default().reset());
        let socket = bench.path().join("net");
        let backend = NicBackend::VhostUser { socket, queues };
        config.devices.nics.push(NicConfig::new(MAC, 1400, backend));
        kvm.create(config).await.unwrap_err()
    };
    let kvm = std::mem::take(&mut bench.kvm);
    let error = refused(&bench, &kvm, 2).await;
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    let nobody = refused(&bench, &kvm, 1).await;
    assert!(matches!(nobody, Error::Device { .. }), "{nobody}");
    let private = kvm.memory_backing(MemoryBacking::Private);
    let error = refused(&bench, &private, 1).await;
    assert!(error.to_string().contains("shared"), "{error}");
}

/// In a network namespace of its own, so that nothing on the host changes.
#[expect(
    deprecated,
    reason = "no descriptor is unshared, of which the new form warns"
)]
fn in_a_namespace(test: impl AsyncFnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let entered = rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET);
            if let Err(error) = entered {
                return eprintln!("skipped: no network namespace: {error}");
            }
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(test());
        });
    });
}

/// Frames of a tap go and come, moved by a thread of this process, and by the host's
/// kernel where it can.
#[test]
fn a_tap_carries_frames_whoever_moves_them() {
    for ((transports, device), vhost_net) in WAYS.into_iter().zip([false, true]) {
        in_a_namespace(async || {
            let kvm = Bench::with(|kvm| kvm.transports(transports).vhost_net(vhost_net));
            let Some(mut bench) = kvm.await else { return };
            let tap = match Tap::open("kata0", 1) {
                Ok(tap) => tap,
                Err(error) => return eprintln!("skipped: {error}"),
            };
            for command in ["link set kata0 up", "addr add 10.9.8.1/24 dev kata0"] {
                let ip = Command::new("ip").args(command.split(' ')).status();
                if !ip.is_ok_and(|status| status.success()) {
                    return eprintln!("skipped: ip {command} fails");
                }
            }
            let queues = tap.into_descriptors().into_iter().map(Arc::new);
            let backend = NicBackend::Tap(queues.collect());
            bench.devices.nics.push(NicConfig::new(MAC, 1400, backend));
            let vm = bench.start(&card_driver(device)).await;
            // Asks, by a broadcast, who has that address.
            let socket = std::net::UdpSocket::bind("10.9.8.1:0").unwrap();
            socket.send_to(b"x", "10.9.8.2:9").unwrap();
            assert_eq!(ending(&*vm).await, VmExit::Reset);
            let said = vm.console_tail();
            assert_eq!(said[..6], MAC);
            let to_many = said[6 + NET_HEADER] & 1;
            assert_eq!(to_many, 1, "what the host sends unasked: {said:x?}");
            let counted = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
            let line = counted.lines().find(|line| line.contains("kata0"));
            let received = line.unwrap().split_whitespace().nth(2);
            assert_eq!(received, Some("1"), "{counted}");
        });
    }
}

/// A packet of streams from the guest's port 7 to the host's port 9, or the head of
/// one (virtio 1.2 §5.10.6).
fn packet(operation: u16, payload: &[u8]) -> Vec<u8> {
    let (stream, window) = (1u16, 0x1_0000u32);
    let length = u32::try_from(payload.len()).unwrap();
    let mut packet = words(&[3, 0, 2, 0, 7, 9, length]);
    packet.extend(stream.to_le_bytes());
    packet.extend(operation.to_le_bytes());
    packet.extend(words(&[0, window, 0]));
    packet.extend(payload);
    packet
}

const VSOCK_HEADER: u32 = 44;

#[tokio::test]
async fn a_stream_carries_bytes_both_ways() {
    const REQUEST: u16 = 1;
    const RESPONSE: u16 = 2;
    const DATA_OF_STREAM: u16 = 5;
    for (transports, device) in WAYS {
        let Some(mut bench) = bench(transports).await else {
            return;
        };
        let socket = bench.path().join("v");
        let listener = UnixListener::bind(bench.path().join("v_9")).unwrap();
        bench.devices.vsock = Some(VsockConfig {
            guest_cid: 3,
            socket,
        });
        let (opening, bytes) = (BUFFERS, BUFFERS + 0x100);
        let replies = [BUFFERS + 0x1000, BUFFERS + 0x2000];
        let payload = Payload::default()
            .data(opening, packet(REQUEST, b""))
            .data(bytes, packet(DATA_OF_STREAM, b"hello"))
            .data(replies[0], [0; 0x100])
            .data(replies[1], [0; 0x100]);
        let room = |at| (at, 0x100, WRITE);
        let payload = FIRST.with_chains(payload, &[&[room(replies[0])], &[room(replies[1])]]);
        let chains: [&[_]; 2] = [
            &[(opening, VSOCK_HEADER, 0)],
            &[(bytes, VSOCK_HEADER, 0), (bytes + VSOCK_HEADER, 5, 0)],
        ];
        let payload = SECOND.with_some_of(payload, &chains, 1);
        let payload = device.start(payload, &[FIRST, SECOND, ring(2)]);
        let payload = ring(2).with_chains(payload, &[]);
        let payload = device.kick(device.kick(payload, FIRST), SECOND);
        let payload = SECOND.offer(payload.wait_for(FIRST.used_index(), 1), 2);
        let payload = device
            .kick(payload, SECOND)
            .wait_for(FIRST.used_index(), 2)
            .show(replies[0], VSOCK_HEADER)
            .show(replies[1], VSOCK_HEADER + 6)
            .reset();
        let vm = bench.start(&payload).await;
        let talk = tokio::task::spawn_blocking(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = [0; 5];
            stream.read_exact(&mut heard).unwrap();
            stream.write_all(b"world!").unwrap();
            (heard, stream)
        });
        let exit = ending(&*vm).await;
        let (heard, _stream) = talk.await.unwrap();
        assert_eq!((&heard, exit), (b"hello", VmExit::Reset));
        let said = vm.console_tail();
        let (first, second) = said.split_at(VSOCK_HEADER as usize);
        assert_eq!(first[30..32], RESPONSE.to_le_bytes());
        assert_eq!(second[30..32], DATA_OF_STREAM.to_le_bytes());
        assert_eq!(&second[VSOCK_HEADER as usize..], b"world!");
    }
}

/// A request for files (`fuse_in_header`), and what it is about.
fn request(operation: u32, node: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(40 + body.len()).unwrap();
    let mut request = words(&[length, operation, operation, 0, node, 0, 0, 0, 1, 0]);
    request.extend(body);
    request
}

/// Reads a shared file: each answer has what the next request is about.
#[tokio::test]
async fn a_shared_file_is_read() {
    const ROOT: u32 = 1;
    const LATER: u32 = 0;
    /// Where a request says what it is about, and its body.
    const NODE: u32 = 16;
    const BODY: u32 = 40;
    /// Where an answer has its body.
    const ANSWER: u32 = 16;
    for (transports, device) in WAYS {
        let Some(mut bench) = bench(transports).await else {
            return;
        };
        fs::write(bench.path().join("file"), "of the host").unwrap();
        let tree = SharedTree::new().unwrap();
        tree.share("d", bench.path(), Access::ReadOnly).unwrap();
        let tag = "tag".to_owned();
        bench.devices.filesystems.push(FsConfig { tag, tree });
        let requests = [
            request(26, ROOT, &words(&[7, 31, 0x1_0000, 0])), // begin
            request(1, ROOT, b"d\0"),
            request(1, LATER, b"file\0"),
            request(14, LATER, &words(&[0, 0])), // open it for reading
            request(15, LATER, &words(&[0, 0, 0, 0, 64, 0, 0, 0, 0, 0])),
        ];
        let (of_request, of_answer) = (
            |index: u32| BUFFERS + index * 0x100,
            |index: u32| BUFFERS + 0x1000 + index * 0x100,
        );
        let mut payload = Payload::default();
        let mut answered = 0u16;
        // A ring has eight descriptors: each request takes the first two anew.
        let lengths = requests
            .iter()
            .map(|request| u32::try_from(request.len()).unwrap());
        let lengths: Vec<u32> = lengths.collect();
        for (index, request) in (0..).zip(&requests) {
            payload = payload
                .data(of_request(index), request.clone())
                .data(of_answer(index), [0; 0x100]);
        }
        let chains: Vec<[(u32, u32, u16); 2]> = (0..)
            .zip(&lengths)
            .map(|(index, length)| {
                [
                    (of_request(index), *length, 0),
                    (of_answer(index), 0x100, WRITE),
                ]
            })
            .collect();
        let chains: Vec<&[_]> = chains.iter().map(|chain| &chain[..]).collect();
        // Four fit; the last takes the place of the first.
        let payload = SECOND.with_some_of(payload, &chains[..4], 0);
        let payload = FIRST.with_chains(payload, &[]);
        let mut payload = device.start(payload, &[FIRST, SECOND]);
        for index in 0..4u32 {
            if index >= 2 {
                // What was found is what the next request is about.
                payload = payload.copy(of_answer(index - 1) + ANSWER, of_request(index) + NODE);
            }
            answered += 1;
            payload = SECOND.offer(payload, answered);
            payload = device
                .kick(payload, SECOND)
                .wait_for(SECOND.used_index(), answered);
        }
        let payload = payload
            .copy(of_request(3) + NODE, of_request(4) + NODE)
            .copy(of_answer(3) + ANSWER, of_request(4) + BODY);
        let payload = SECOND.replace(payload, 0, of_request(4), lengths[4]);
        let payload = SECOND.replace(payload, 1, of_answer(4), 0x100);
        let payload = SECOND.offer(payload, 5);
        let payload = device
            .kick(payload, SECOND)
            .wait_for(SECOND.used_index(), 5)
            .show(of_answer(4), ANSWER + 11)
            .show(device.config(), 4)
            .reset();
        let (said, exit) = bench.run(&payload).await;
        assert_eq!(exit, VmExit::Reset);
        assert_eq!(said[..4], 27u32.to_le_bytes(), "an answer of this length");
        assert_eq!(said[4..8], [0; 4], "and no error");
        assert_eq!(&said[16..], b"of the hosttag\0");
    }
}

#[tokio::test]
async fn a_console_carries_bytes_both_ways() {
    for (transports, device) in WAYS {
        let Some(mut bench) = bench(transports).await else {
            return;
        };
        let (mut typed, input) = UnixStream::pair().unwrap();
        let (mut shown, output) = UnixStream::pair().unwrap();
        typed.write_all(b"typed").unwrap();
        bench.devices.console = Some(ConsoleConfig {
            input: Some(Arc::new(input.into())),
            output: Arc::new(output.into()),
        });
        let payload = Payload::default()
            .data(BUFFERS, [0; 64])
            .data(BUFFERS + 64, *b"written");
        let payload = FIRST.with_chains(payload, &[&[(BUFFERS, 64, WRITE)]]);
        let payload = SECOND.with_chains(payload, &[&[(BUFFERS + 64, 7, 0)]]);
        let payload = device.start(payload, &[FIRST, SECOND]);
        let payload = device.kick(device.kick(payload, FIRST), SECOND);
        let payload = payload
            .wait_for(FIRST.used_index(), 1)
            .wait_for(SECOND.used_index(), 1)
            .show(FIRST.written(0), 1)
            .show(BUFFERS, 5)
            .reset();
        let (said, exit) = bench.run(&payload).await;
        assert_eq!((&said[..], exit), (&b"\x05typed"[..], VmExit::Reset));
        let mut heard = [0; 7];
        shown.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"written");
    }
}

#[tokio::test]
async fn memory_that_is_given_up_or_reported_is_the_hosts() {
    const PAGE: u32 = 0x1000;
    const REPORTING: u32 = 1 << 5;
    for (transports, device) in WAYS {
        let Some(mut bench) = bench(transports).await else {
            return;
        };
        bench.devices.balloon = Some(BalloonConfig {
            statistics: false,
            deflate_on_oom: false,
            reporting: true,
        });
        let (numbers, given, reported) = (BUFFERS, BUFFERS + PAGE, BUFFERS + 2 * PAGE);
        let payload = Payload::default()
            .data(numbers, words(&[given / PAGE]))
            .data(given, [b'g'; PAGE as usize])
            .data(reported, [b'r'; PAGE as usize]);
        let [inflate, deflate, reports] = [FIRST, SECOND, ring(2)];
        let payload = inflate.with_chains(payload, &[&[(numbers, 4, 0)]]);
        let payload = deflate.with_chains(payload, &[]);
        let payload = reports.with_chains(payload, &[&[(reported, PAGE, WRITE)]]);
        let payload = device.start_with(payload, &[inflate, deflate, reports], REPORTING);
        let payload = device.kick(device.kick(payload, inflate), reports);
        let payload = payload
            .write(device.config() + 4, 1)
            .wait_for(inflate.used_index(), 1)
            .wait_for(reports.used_index(), 1)
            .show(device.config(), 4)
            .show(given, 1)
            .show(reported, 1)
            .show_forever();
        let vm = bench.create(&payload).await;
        let balloon = vm.balloon().unwrap();
        assert!(vm.features().balloon);
        let page = kata_hypervisor::MemorySize::bytes(PAGE.into());
        balloon.set_target(page).await.unwrap();
        vm.start().await.unwrap();
        let said = bench::said(&*vm, 7).await;
        assert_eq!(said[..4], [1, 0, 0, 0], "a page is wanted");
        assert_eq!(said[4..6], [0, 0], "pages that are gone read as zeroes");
        let state = balloon.state().await.unwrap();
        assert_eq!((state.given, state.reported), (page, page));
        drop(vm);
    }
}
