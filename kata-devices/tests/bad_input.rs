//! Every kind of device against every kind of bad chain: it says that it needs a
//! reset, or gives the chain back, and works again after a reset. It takes no time
//! and no memory for it.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use kata_devices::balloon::BalloonConfig;
use kata_devices::blk::BlkConfig;
use kata_devices::console::ConsoleConfig;
use kata_devices::fs::{FsConfig, SharedTree};
use kata_devices::net::{Link, NetConfig};
use kata_devices::rng::RngConfig;
use kata_devices::testing::{MmioDriver, NEXT, SECOND_REGION, Stepper, TABLE, WRITE, stepped};
use kata_devices::virtio::ThreadStart;
use kata_devices::vsock::VsockConfig;

const PATIENCE: Duration = Duration::from_secs(30);
const STATUS: u32 = 0x70;
const RUNNING: u32 = 15;
const NEEDS_RESET: u32 = 64;
const SIZE: u16 = 16;

/// A device under test.
struct Subject {
    name: &'static str,
    driver: MmioDriver,
    /// `None` when it has threads.
    stepper: Option<Stepper>,
    /// Queues whose chains it takes by itself.
    queues: Vec<usize>,
    /// Whether chains that make no sense are given back.
    forgives: bool,
    /// A queue of which a chain is kept until it is wanted.
    keeps: Option<usize>,
    kept: Kept,
}

/// What a device is connected to.
#[derive(Default)]
struct Kept {
    _file: Option<tempfile::NamedTempFile>,
    _dir: Option<tempfile::TempDir>,
    /// Where frames come from.
    wire: Option<UnixDatagram>,
}

fn disk() -> Subject {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let made = stepped::blk(&BlkConfig::new(file.path())).unwrap();
    let kept = Kept {
        _file: Some(file),
        ..Kept::default()
    };
    subject("disk", made, vec![0], kept)
}

fn card() -> Subject {
    let (wire, port) = UnixDatagram::pair().unwrap();
    wire.set_nonblocking(true).unwrap();
    let made = stepped::net(NetConfig::new(Link::Packets(vec![OwnedFd::from(port)]))).unwrap();
    let kept = Kept {
        wire: Some(wire),
        ..Kept::default()
    };
    subject("card", made, vec![0, 1, 2], kept)
}

fn console() -> Subject {
    let config = ConsoleConfig {
        input: Some(std::fs::File::open("/dev/zero").unwrap().into()),
        output: std::fs::File::create("/dev/null").unwrap().into(),
    };
    let made = stepped::console(config).unwrap();
    subject("console", made, vec![0, 1], Kept::default())
}

fn entropy() -> Subject {
    let made = stepped::rng(&RngConfig::default()).unwrap();
    subject("entropy", made, vec![0], Kept::default())
}

fn balloon() -> Subject {
    let made = stepped::balloon(&BalloonConfig::default()).unwrap();
    let mut subject = subject("balloon", made, vec![0, 1, 2, 3], Kept::default());
    subject.keeps = Some(2);
    subject
}

fn vsock() -> Subject {
    let dir = tempfile::tempdir().unwrap();
    let config = VsockConfig {
        guest_cid: 3,
        socket: dir.path().join("vsock"),
    };
    let made = stepped::vsock(&config).unwrap();
    let kept = Kept {
        _dir: Some(dir),
        ..Kept::default()
    };
    let mut subject = subject("vsock", made, vec![1], kept);
    subject.forgives = true;
    subject
}

fn files() -> Subject {
    let config = FsConfig {
        tag: "files".to_owned(),
        tree: SharedTree::new().unwrap(),
    };
    let device = config.device(&ThreadStart::default()).unwrap();
    Subject {
        name: "files",
        driver: MmioDriver::new(device),
        stepper: None,
        queues: vec![0, 1],
        forgives: true,
        keeps: None,
        kept: Kept::default(),
    }
}

fn subject(name: &'static str, made: stepped::Stepped, queues: Vec<usize>, kept: Kept) -> Subject {
    let (device, stepper) = made;
    Subject {
        name,
        driver: MmioDriver::new(device),
        stepper: Some(stepper),
        queues,
        forgives: false,
        keeps: None,
        kept,
    }
}

fn subjects() -> Vec<Subject> {
    let (disk, card, console) = (disk(), card(), console());
    vec![disk, card, console, entropy(), balloon(), vsock(), files()]
}

/// What a driver should not do, on a queue that was just started; offers chains.
type Deed = fn(&mut MmioDriver, usize);

/// What comes of a deed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The ring itself makes no sense: nobody can go on with it.
    Broken,
    /// A chain makes no sense: broken too, or given back by those that forgive.
    Malformed,
    /// Anything, so long as it comes to something.
    Something,
}

fn one(driver: &mut MmioDriver, queue: usize, buffers: &[(u64, u32, u16)]) {
    driver.queues[queue].send(0, buffers);
}

fn in_a_table(
    driver: &mut MmioDriver,
    queue: usize,
    length: u32,
    entries: &[(u64, u32, u16, u16)],
) {
    let table = driver.arena.allocate(4096);
    for (at, entry) in (0..).zip(entries) {
        driver.queues[queue].describe_at(table + 16 * at, *entry);
    }
    driver.queues[queue].describe(0, (table, length, TABLE, 0));
    driver.queues[queue].offer(0);
}

const DEEDS: &[(&str, Outcome, Deed)] = &[
    ("a loop", Outcome::Malformed, |driver, queue| {
        driver.queues[queue].describe(0, (0x5000, 64, NEXT, 1));
        driver.queues[queue].describe(1, (0x6000, 64, NEXT, 0));
        driver.queues[queue].offer(0);
    }),
    (
        "a loop of what is written",
        Outcome::Malformed,
        |driver, queue| {
            driver.queues[queue].describe(0, (0x5000, 64, NEXT | WRITE, 0));
            driver.queues[queue].offer(0);
        },
    ),
    ("a link to nowhere", Outcome::Malformed, |driver, queue| {
        driver.queues[queue].describe(0, (0x5000, 64, NEXT, 9999));
        driver.queues[queue].offer(0);
    }),
    (
        "a head that there is not",
        Outcome::Something,
        |driver, queue| {
            driver.queues[queue].offer(SIZE);
            driver.queues[queue].offer(u16::MAX);
        },
    ),
    ("outside of memory", Outcome::Malformed, |driver, queue| {
        one(
            driver,
            queue,
            &[(u64::MAX - 5, 600, 0), (u64::MAX - 5, 600, WRITE)],
        );
    }),
    (
        "half outside of memory",
        Outcome::Malformed,
        |driver, queue| {
            let edge = SECOND_REGION - 8;
            one(driver, queue, &[(edge, 64, 0), (edge, 64, WRITE)]);
        },
    ),
    ("as long as can be", Outcome::Malformed, |driver, queue| {
        one(
            driver,
            queue,
            &[(0x5000, u32::MAX, 0), (0x5000, u32::MAX, WRITE)],
        );
    }),
    ("overlapping", Outcome::Something, |driver, queue| {
        let buffers = [
            (0x5000, 64, 0),
            (0x5020, 64, 0),
            (0x5010, 64, WRITE),
            (0x5010, 64, WRITE),
        ];
        one(driver, queue, &buffers);
    }),
    ("over the rings", Outcome::Something, |driver, queue| {
        let (table, used) = (driver.queues[queue].descriptors, driver.queues[queue].used);
        one(
            driver,
            queue,
            &[(table, 48, 0), (used, 64, WRITE), (table, 64, WRITE)],
        );
    }),
    ("of no length", Outcome::Something, |driver, queue| {
        one(driver, queue, &[(0x5000, 0, 0), (0x6000, 0, WRITE)]);
    }),
    ("to be read only", Outcome::Something, |driver, queue| {
        one(driver, queue, &[(0x5000, 64, 0)]);
    }),
    ("to be written only", Outcome::Something, |driver, queue| {
        one(driver, queue, &[(0x5000, 64, WRITE)]);
    }),
    (
        "to be read after it was written",
        Outcome::Something,
        |driver, queue| {
            one(driver, queue, &[(0x5000, 64, WRITE), (0x6000, 64, 0)]);
        },
    ),
    ("a table in a table", Outcome::Malformed, |driver, queue| {
        in_a_table(driver, queue, 16, &[(0x5000, 16, TABLE, 0)]);
    }),
    (
        "a table of half an entry",
        Outcome::Malformed,
        |driver, queue| {
            in_a_table(driver, queue, 8, &[(0x5000, 16, 0, 0)]);
        },
    ),
    ("a table of nothing", Outcome::Malformed, |driver, queue| {
        in_a_table(driver, queue, 0, &[]);
    }),
    ("a table that loops", Outcome::Malformed, |driver, queue| {
        in_a_table(
            driver,
            queue,
            32,
            &[(0x5000, 16, NEXT, 1), (0x5000, 16, NEXT, 0)],
        );
    }),
    (
        "a table outside of memory",
        Outcome::Malformed,
        |driver, queue| {
            driver.queues[queue].describe(0, (u64::MAX - 64, 64, TABLE, 0));
            driver.queues[queue].offer(0);
        },
    ),
    (
        "more than the ring holds",
        Outcome::Broken,
        |driver, queue| {
            driver.queues[queue].set_available_index(SIZE * 3);
        },
    ),
    ("fewer than before", Outcome::Broken, |driver, queue| {
        driver.queues[queue].set_available_index(u16::MAX);
    }),
];

impl Subject {
    fn start(&mut self) {
        self.driver.write(STATUS, 0);
        while self.driver.line.wait(Duration::ZERO) {}
        self.driver.arena.clear();
        // Without the event index: what is offered is looked at.
        let features = self.driver.offered() & !(1 << 29);
        self.driver.start(features, SIZE);
        assert_eq!(self.driver.read(STATUS), RUNNING, "{}", self.name);
    }

    fn is_broken(&self) -> bool {
        self.driver.read(STATUS) & NEEDS_RESET != 0
    }

    /// Lets it look at a queue. Whether it gave something back.
    fn look(&mut self, queue: usize) -> bool {
        if let Some(wire) = &self.kept.wire {
            // One that is there already is as good.
            let _ = wire.send(&[1; 60]);
        }
        self.driver.queues[queue].kick.signal();
        if let Some(stepper) = &self.stepper {
            stepper.step();
            return self.driver.queues[queue].used().is_some();
        }
        loop {
            if self.driver.queues[queue].used().is_some() {
                return true;
            }
            if self.is_broken() {
                return false;
            }
            assert!(self.driver.line.wait(PATIENCE), "{} hangs", self.name);
        }
    }

    fn endures(&mut self, queue: usize, deed: &(&str, Outcome, Deed)) {
        let (what, outcome, deed) = deed;
        let context = format!("{}, queue {queue}: {what}", self.name);
        self.start();
        deed(&mut self.driver, queue);
        let given_back = self.look(queue);
        let broken = self.is_broken();
        match outcome {
            Outcome::Broken => assert!(broken, "{context}"),
            Outcome::Malformed if self.forgives => assert!(broken || given_back, "{context}"),
            Outcome::Malformed => assert!(broken && !given_back, "{context}"),
            Outcome::Something if self.keeps == Some(queue) => {}
            Outcome::Something => assert!(broken || given_back, "{context}"),
        }
        // A queue that is broken stays alone until the reset.
        if broken {
            self.driver.queues[queue].kick.signal();
            if let Some(stepper) = &self.stepper {
                stepper.step();
            }
            assert!(self.is_broken(), "{context}");
        }
        self.start();
    }
}

#[test]
fn every_device_endures_every_bad_chain() {
    for mut subject in subjects() {
        for queue in subject.queues.clone() {
            for deed in DEEDS {
                subject.endures(queue, deed);
            }
        }
    }
}

#[test]
fn every_device_is_reset_in_flight() {
    for mut subject in subjects() {
        for queue in subject.queues.clone() {
            for _ in 0..20 {
                subject.start();
                for head in 0..SIZE {
                    let flags = if head % 2 == 0 { WRITE } else { 0 };
                    subject.driver.queues[queue].send(head, &[(0x5000, 64, flags)]);
                }
                // Whether it has begun or not.
                subject.driver.queues[queue].kick.signal();
                subject.driver.write(STATUS, 0);
                assert_eq!(subject.driver.read(STATUS), 0, "{}", subject.name);
            }
            subject.start();
        }
    }
}

/// Bytes of this process that are its own.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let fields: Vec<u64> = statm
        .split_whitespace()
        .map(|field| field.parse().unwrap())
        .collect();
    // Without what is shared, such as the guest's memory.
    (fields[1] - fields[2]) * 4096
}

#[test]
fn bad_chains_cost_no_memory() {
    for mut subject in subjects() {
        let rounds = |subject: &mut Subject| {
            for queue in subject.queues.clone() {
                for deed in DEEDS {
                    subject.endures(queue, deed);
                }
            }
        };
        for _ in 0..5 {
            rounds(&mut subject);
        }
        let before = resident();
        for _ in 0..50 {
            rounds(&mut subject);
        }
        let grown = resident().saturating_sub(before);
        // Other tests run beside this one.
        assert!(grown < 32 << 20, "{}: {grown} bytes", subject.name);
    }
}
