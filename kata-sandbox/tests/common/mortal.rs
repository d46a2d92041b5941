//! Programs that die where a test says: this test program itself, started
//! again with other arguments.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use kata_sandbox::network::{
    self, Attachment, Endpoint, GuestInterface, Lease, MacAddress, Network, SetupRequest,
    async_trait,
};
use kata_sandbox::{RuntimeBuilder, Supervisor};

/// What the second program is told.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    /// Where networks leave their traces.
    pub(crate) traces: PathBuf,
    /// At which step to die, counted from 1; 0 for never.
    pub(crate) die_at: usize,
}

/// Where the orders begin, among the arguments.
const MARK: &str = "orders:";

impl Orders {
    /// Arguments by which this test program runs the ignored test `main`. The
    /// harness takes the orders for the names of tests to skip.
    pub(crate) fn arguments(&self, main: &str) -> Vec<String> {
        let orders = format!("{MARK}{}:{}", self.die_at, self.traces.display());
        let words = [
            main,
            "--exact",
            "--ignored",
            "--nocapture",
            "--skip",
            &orders,
        ];
        words.map(str::to_owned).to_vec()
    }

    pub(crate) fn supervisor(&self, main: &str) -> Supervisor {
        let supervisor = Supervisor::this_program(self.arguments(main));
        super::detached::with_coverage(supervisor.log(self.traces.with_extension("log")))
    }

    /// The orders of this process, if it has any.
    pub(crate) fn own() -> Option<Self> {
        let orders = std::env::args().find_map(|it| it.strip_prefix(MARK).map(str::to_owned))?;
        let (die_at, traces) = orders.split_once(':')?;
        Some(Self {
            traces: traces.into(),
            die_at: die_at.parse().ok()?,
        })
    }

    /// A runtime that follows them.
    pub(crate) fn configure(self, builder: RuntimeBuilder) -> RuntimeBuilder {
        let (passed, die_at) = (AtomicUsize::new(0), self.die_at);
        builder
            .network(Traces(self.traces))
            .on_journal_step(move |step| {
                if passed.fetch_add(1, Ordering::Relaxed) + 1 == die_at {
                    eprintln!("dies at step {die_at}, {step}");
                    let own = rustix::process::getpid();
                    rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
                }
            })
    }
}

/// A named pipe: whoever opens it waits for who opens its other end.
pub(crate) struct Gate(PathBuf);

impl Gate {
    /// The gate of that name, in that directory.
    pub(crate) fn at(directory: &Path, name: &str) -> Self {
        Self(directory.join(name))
    }

    pub(crate) fn make(self) -> Self {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &self.0, fifo, mode, 0).unwrap();
        self
    }

    /// Waits for whoever comes from the other side.
    pub(crate) fn arrive(&self) {
        drop(
            std::fs::OpenOptions::new()
                .write(true)
                .open(&self.0)
                .unwrap(),
        );
    }

    /// The other side.
    pub(crate) fn meet(&self) {
        drop(std::fs::File::open(&self.0).unwrap());
    }
}

/// A network that makes a file on the host, and has to remove it.
#[derive(Debug)]
pub(crate) struct Traces(pub(crate) PathBuf);

#[async_trait]
impl Network for Traces {
    fn name(&self) -> &str {
        "traces"
    }

    async fn setup(&self, request: &SetupRequest) -> network::Result<Lease> {
        std::fs::write(self.0.join(&request.sandbox), "").unwrap();
        let mut lease = Lease::new();
        lease.netns = Some("/proc/self/ns/net".into());
        if request.sandbox.contains('+') {
            // One that was added brings a device, which leads nowhere.
            let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
            let mac = MacAddress::new([2, 0, 0, 0, 0, 1]);
            let stream = Attachment::Stream(near.into());
            lease.endpoints = vec![Endpoint::new(stream, mac, 1500)];
            lease.interfaces = vec![GuestInterface::new("eth0", mac, 1500)];
        }
        Ok(lease)
    }

    async fn teardown(&self, sandbox: &str) -> network::Result<()> {
        drop(std::fs::remove_file(self.0.join(sandbox))); // it may be gone
        Ok(())
    }
}

/// Every process that has to do with this directory, by id: it is named in its
/// arguments, or among what it has open.
pub(crate) fn processes_of(directory: &Path) -> std::collections::BTreeMap<u32, String> {
    let needle = directory.display().to_string();
    let own = std::process::id();
    let mut found = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let open = std::fs::read_dir(entry.path().join("fd"));
        let mut open = open.into_iter().flatten().flatten();
        // A supervisor is known by the lock that it holds.
        let holds = open.any(|file| {
            std::fs::read_link(file.path()).is_ok_and(|name| name.starts_with(directory))
        });
        if pid != own && (line.contains(&needle) || holds) {
            found.insert(pid, line);
        }
    }
    found
}
