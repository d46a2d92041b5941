//! What a supervisor costs, against the same engine in this process.

use std::path::Path;
use std::time::{Duration, Instant};

use kata_examples::Busybox;
use kata_sandbox::{
    Container, ContainerSpec, MemorySize, OnDrop, Rootfs, Runtime, Sandbox, StdioMode, Supervisor,
};
use tokio::io::AsyncReadExt;

use crate::Kit;
use crate::host::{mib, pss_beside_memory};
use crate::table::{Bar, Table};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// The argument by which this program is a supervisor.
pub(crate) const ARGUMENT: &str = "supervise";
const ROUNDS: usize = 7;
const STDOUT: u64 = 64 << 20;

/// A sandbox with an idle container, in one of both homes.
struct Guest {
    sandbox: Sandbox,
    container: Container,
    start: Duration,
}

impl Guest {
    async fn new(runtime: &Runtime, root: &Busybox, home: OnDrop) -> Outcome<Self> {
        let began = Instant::now();
        let id = format!("{home:?}").to_lowercase();
        let builder = runtime.sandbox(id).memory(MemorySize::mib(256));
        let sandbox = builder.on_drop(home).start().await?;
        let start = began.elapsed();
        let spec = ContainerSpec::new(Rootfs::Dir(root.root())).command(["/bin/sleep", "3600"]);
        let container = sandbox.container("bench", spec).await?;
        container.start().await?;
        Ok(Self {
            sandbox,
            container,
            start,
        })
    }

    /// `true`, from the call to its status.
    async fn exec(&self) -> Outcome<Duration> {
        let began = Instant::now();
        let process = self.container.exec("/bin/true").spawn().await?;
        if !process.wait().await?.success() {
            return Err("`true` failed".into());
        }
        Ok(began.elapsed())
    }

    /// 64 MiB of standard output, from its first byte to its end.
    async fn stdout(&self) -> Outcome<Duration> {
        let size = STDOUT.to_string();
        let exec = self.container.exec("/bin/guest-probe");
        let exec = exec.args(["flood", &size]).stdio(StdioMode::Piped);
        let mut process = exec.spawn().await?;
        let mut stdout = process.take_stdout().ok_or("no stdout")?;
        let mut buffer = vec![0; 256 << 10];
        let mut total = stdout.read(&mut buffer).await?;
        let began = Instant::now();
        while let count @ 1.. = stdout.read(&mut buffer).await? {
            total += count;
        }
        let took = began.elapsed();
        process.wait().await?;
        if total as u64 != STDOUT {
            return Err(format!("{total} bytes came of {STDOUT}").into());
        }
        Ok(took)
    }
}

pub(crate) fn median(mut times: Vec<Duration>) -> (f64, String) {
    times.sort_unstable();
    let millis = times[times.len() / 2].as_secs_f64() * 1000.0;
    (millis, format!("{millis:.1} ms"))
}

/// The process that runs the sandbox, as its journal says.
pub(crate) fn owner(state: &Path, id: &str) -> Outcome<u32> {
    let record = std::fs::read_to_string(state.join(id).join("state.json"))?;
    let owner = record.split("\"owner\"").nth(1).ok_or("no owner")?;
    let pid = owner.split("\"pid\":").nth(1).ok_or("no pid")?;
    let digits: String = pid
        .trim()
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    Ok(digits.parse()?)
}

/// Both homes in turn, so that a busy moment of the machine is in both.
pub(crate) async fn supervisor(kit: &Kit, table: &mut Table) -> Outcome {
    let state = tempfile::Builder::new().prefix("kata-bench-").tempdir()?;
    let runtime = Runtime::builder()
        .state_dir(state.path())
        .guest_image(&kit.image)
        .supervisor(Supervisor::this_program([ARGUMENT]))
        .build()?;
    let root = Busybox::new()?;
    std::fs::copy(&kit.probe, root.root().join("bin/guest-probe"))?;
    let mut starts = [Vec::new(), Vec::new()];
    let mut execs = [Vec::new(), Vec::new()];
    let mut floods = [Vec::new(), Vec::new()];
    let mut cost = 0;
    // One round to warm up: page cache, probe, checksums.
    for round in 0..=ROUNDS {
        let here = Guest::new(&runtime, &root, OnDrop::Kill).await?;
        let there = Guest::new(&runtime, &root, OnDrop::Detach).await?;
        for (index, guest) in [&here, &there].into_iter().enumerate() {
            guest.exec().await?;
            for _ in 0..10 {
                execs[index].push(guest.exec().await?);
            }
            floods[index].push(guest.stdout().await?);
            if round > 0 {
                starts[index].push(guest.start);
            }
        }
        cost = pss_beside_memory(owner(state.path(), "detach")?)?;
        here.sandbox.delete().await?;
        there.sandbox.delete().await?;
    }
    let [here, there] = starts.map(median);
    let bar = here.0 + 30.0;
    println!("start() in this process took {}", here.1);
    let floor = (bar, format!("{bar:.1} ms"));
    let name = "start() in a supervisor / in this process, and 30 ms";
    table.add(name, there, floor, Bar::AtMost(1.0));
    let [here, there] = execs.map(median);
    let name = "exec of `true` through a supervisor / in this process";
    table.add(name, there, here, Bar::AtMost(1.1));
    let [here, there] = floods.map(median);
    let name = "64 MiB of stdout through a supervisor / in this process";
    table.add(name, there, here, Bar::AtMost(1.1));
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    let cost = cost as f64;
    let limit = f64::from(8 << 20);
    let name = "a supervisor's memory beside the guest's (PSS)";
    table.add(
        name,
        (cost, mib(cost)),
        (limit, mib(limit)),
        Bar::AtMost(1.0),
    );
    Ok(())
}
