//! The measurements.

use std::time::{Duration, Instant};

use kata_examples::Busybox;
use kata_sandbox::{
    Container, ContainerSpec, MemorySize, Process, Rootfs, Runtime, Sandbox, Signal, StdioMode,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::Kit;
use crate::floor::Floor;
use crate::host::{Pss, mib};
use crate::table::{Bar, Table};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Memory of the measured guests, in mebibytes.
const MEMORY: u64 = 256;
const ROUNDS: usize = 7;
const GIB: u64 = 1 << 30;

/// A sandbox with one idle container that has `guest-probe`.
struct Guest {
    _root: Busybox,
    sandbox: Sandbox,
    container: Container,
    runtime: Runtime,
    _state: tempfile::TempDir,
}

fn runtime(kit: &Kit) -> Outcome<(tempfile::TempDir, Runtime)> {
    let state = tempfile::Builder::new().prefix("kata-bench-").tempdir()?;
    let runtime = Runtime::builder()
        .state_dir(state.path())
        .guest_image(&kit.image)
        .build()?;
    Ok((state, runtime))
}

impl Guest {
    async fn new(kit: &Kit) -> Outcome<Self> {
        let (state, runtime) = runtime(kit)?;
        let root = Busybox::new()?;
        std::fs::copy(&kit.probe, root.root().join("bin/guest-probe"))?;
        let sandbox = runtime
            .sandbox("bench")
            .memory(MemorySize::mib(MEMORY))
            .start()
            .await?;
        let spec = ContainerSpec::new(Rootfs::Dir(root.root())).command(["/bin/sleep", "3600"]);
        let container = sandbox.container("bench", spec).await?;
        container.start().await?;
        Ok(Self {
            _root: root,
            sandbox,
            container,
            runtime,
            _state: state,
        })
    }

    async fn probe(&self, words: &[&str]) -> Outcome<Process> {
        let exec = self
            .container
            .exec("/bin/guest-probe")
            .args(words.iter().copied());
        Ok(exec.stdio(StdioMode::Piped).spawn().await?)
    }

    async fn end(self) -> Outcome {
        self.sandbox.stop(Duration::ZERO).await?;
        self.sandbox.delete().await?;
        drop(self.runtime);
        Ok(())
    }
}

pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn millis(time: Duration) -> (f64, String) {
    let millis = time.as_secs_f64() * 1000.0;
    (millis, format!("{millis:.1} ms"))
}

async fn floor(kit: &Kit, runtime: &Runtime) -> Outcome<Floor> {
    let sandbox = start_named(runtime, "model").await?;
    let floor = Floor::of_child(&kit.probe);
    sandbox.stop(Duration::ZERO).await?;
    sandbox.delete().await?;
    floor
}

/// `start()` until Running, against the raw boot.
pub(crate) async fn start(kit: &Kit, table: &mut Table) -> Outcome {
    let (_state, runtime) = runtime(kit)?;
    let floor = floor(kit, &runtime).await?;
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    let mut timeline = None;
    // One round to warm up: page cache, probe, checksums.
    for round in 0..=ROUNDS {
        let raw = floor.boot(MEMORY).await?;
        let began = Instant::now();
        let sandbox = runtime
            .sandbox("start")
            .memory(MemorySize::mib(MEMORY))
            .start()
            .await?;
        let took = began.elapsed();
        if round > 0 {
            floors.push(raw);
            ours.push(took);
        }
        timeline = Some(sandbox.timeline().clone());
        sandbox.stop(Duration::ZERO).await?;
        sandbox.delete().await?;
    }
    if let Some(timeline) = timeline {
        println!("the last of {ROUNDS} starts\n{timeline}\n");
    }
    let (ours, floor) = (millis(median(ours)), millis(median(floors)));
    table.add(
        "start() to Running / raw boot of the same QEMU and kernel",
        ours,
        floor,
        Bar::AtMost(1.25),
    );
    Ok(())
}

/// `exec` of `true`, against what it cannot do without. In rounds, so that a busy
/// moment of the machine is in all three parts.
pub(crate) async fn exec(kit: &Kit, table: &mut Table) -> Outcome {
    let guest = Guest::new(kit).await?;
    let mut echo = guest.probe(&["echo", "5000"]).await?;
    ready(&mut echo).await?;
    let mut stream = guest.sandbox.dial_vsock(5000).await?;
    let (mut spawns, mut trips, mut execs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        spawns.push(spawned(&guest).await?);
        for _ in 0..20 {
            let began = Instant::now();
            stream.write_all(b"x").await?;
            stream.read_exact(&mut [0]).await?;
            trips.push(began.elapsed());
        }
        for _ in 0..20 {
            let began = Instant::now();
            let process = guest
                .container
                .exec("/bin/true")
                .stdio(StdioMode::Null)
                .spawn()
                .await?;
            if !process.wait().await?.success() {
                return Err("`true` failed".into());
            }
            execs.push(began.elapsed());
        }
    }
    drop(stream);
    echo.wait().await?;
    let floor = millis(median(spawns) + median(trips));
    table.add(
        "exec of `true` / fork+exec+wait in the guest + one vsock echo",
        millis(median(execs)),
        floor,
        Bar::AtMost(1.5),
    );
    guest.end().await
}

/// The median of fork, exec and wait of `true`, timed in the guest.
async fn spawned(guest: &Guest) -> Outcome<Duration> {
    let mut spawn = guest.probe(&["spawn", "/bin/true", "30"]).await?;
    let mut printed = String::new();
    let mut output = spawn.take_stdout().ok_or("no stdout")?;
    output.read_to_string(&mut printed).await?;
    spawn.wait().await?;
    Ok(Duration::from_nanos(printed.trim().parse()?))
}

pub(crate) async fn ready(process: &mut Process) -> Outcome {
    let output = process.take_stdout().ok_or("no stdout")?;
    match BufReader::new(output).lines().next_line().await? {
        Some(line) if line == "ready" => Ok(()),
        other => Err(format!("the probe said {other:?}").into()),
    }
}

/// A container's output, against a raw vsock stream; and a reader that stalls.
pub(crate) async fn stream(kit: &Kit, table: &mut Table) -> Outcome {
    let guest = Guest::new(kit).await?;
    let mut source = guest.probe(&["source", "5001", &GIB.to_string()]).await?;
    ready(&mut source).await?;
    let mut raw = guest.sandbox.dial_vsock(5001).await?;
    let raw_rate = drain(&mut raw).await?;
    source.wait().await?;

    let mut flood = guest.probe(&["flood", &GIB.to_string()]).await?;
    let mut output = flood.take_stdout().ok_or("no stdout")?;
    let rate = drain(&mut output).await?;
    flood.wait().await?;
    let text = |rate: f64| (rate, format!("{:.0} MiB/s", rate / f64::from(1 << 20)));
    table.add(
        "1 GiB of stdout / a raw vsock stream",
        text(rate),
        text(raw_rate),
        Bar::AtLeast(0.5),
    );

    let before = Pss::now()?;
    let mut stalled = guest.probe(&["flood", &(10 * GIB).to_string()]).await?;
    let mut output = stalled.take_stdout().ok_or("no stdout")?;
    output.read_exact(&mut [0; 1]).await?;
    // Time for the guest to fill whatever there is to fill.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let grown = Pss::now()?.private.saturating_sub(before.private);
    let began = Instant::now();
    stalled.control().kill(Signal::KILL).await?;
    let exit = stalled.wait().await?;
    let (_, took) = millis(began.elapsed());
    println!("a stalled stream: kill and wait took {took}, exit {exit:?}\n");
    table.add(
        "host memory of a stream whose reader stalls",
        bytes(grown),
        bytes(1 << 20),
        Bar::AtMost(1.0),
    );
    drop(output);
    guest.end().await
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn bytes(bytes: u64) -> (f64, String) {
    (bytes as f64, mib(bytes as f64))
}

async fn drain(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Outcome<f64> {
    let mut buffer = vec![0; 256 * 1024];
    let (mut began, mut total) = (None, 0_u64);
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        began.get_or_insert_with(Instant::now);
        total += count as u64;
    }
    let took = began.ok_or("nothing came")?.elapsed();
    if total != GIB {
        return Err(format!("{total} bytes came of {GIB}").into());
    }
    Ok(bytes(total).0 / took.as_secs_f64())
}

/// What a sandbox costs this process, and the agent its guest.
pub(crate) async fn size(kit: &Kit, table: &mut Table) -> Outcome {
    let agent = std::fs::metadata(&kit.agent)?.len();
    table.add(
        "the agent on disk",
        bytes(agent),
        bytes(6 << 20),
        Bar::AtMost(1.0),
    );
    let (_state, runtime) = runtime(kit)?;
    let first = start_named(&runtime, "first").await?;
    let guest = first.stats().await?.guest;
    let agent = guest.and_then(|guest| guest.agent);
    let agent = agent.ok_or("the agent does not say what it has in memory")?;
    table.add(
        "the agent in the memory of an idle guest",
        bytes(agent.as_bytes()),
        bytes(6 << 20),
        Bar::AtMost(1.0),
    );
    let before = Pss::now()?;
    let mut more = Vec::new();
    for index in 0..4 {
        more.push(start_named(&runtime, &format!("more-{index}")).await?);
    }
    let after = Pss::now()?;
    let each = after.whole.saturating_sub(before.whole) / 4;
    table.add(
        "what this process grows by for each sandbox (PSS)",
        bytes(each),
        bytes(8 << 20),
        Bar::AtMost(1.0),
    );
    more.push(first);
    for sandbox in more {
        sandbox.stop(Duration::ZERO).await?;
        sandbox.delete().await?;
    }
    Ok(())
}

async fn start_named(runtime: &Runtime, id: &str) -> Outcome<Sandbox> {
    Ok(runtime
        .sandbox(id)
        .memory(MemorySize::mib(MEMORY))
        .start()
        .await?)
}

/// Twenty sandboxes started at once, against twenty raw boots started at once.
pub(crate) async fn crowd(kit: &Kit, table: &mut Table) -> Outcome {
    const CROWD: usize = 20;
    let (_state, runtime) = runtime(kit)?;
    let floor = floor(kit, &runtime).await?;
    let began = Instant::now();
    let mut boots = Vec::new();
    for _ in 0..CROWD {
        boots.push(floor.boot(128));
    }
    for boot in join_all(boots).await {
        boot?;
    }
    let raw = began.elapsed();

    let began = Instant::now();
    let mut starts = Vec::new();
    for index in 0..CROWD {
        let builder = runtime
            .sandbox(format!("crowd-{index}"))
            .memory(MemorySize::mib(128));
        starts.push(builder.start());
    }
    let sandboxes = join_all(starts)
        .await
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let took = began.elapsed();
    for sandbox in sandboxes {
        sandbox.stop(Duration::ZERO).await?;
        sandbox.delete().await?;
    }
    table.add(
        "20 sandboxes at once / 20 raw boots at once",
        millis(took),
        millis(raw),
        Bar::AtMost(1.5),
    );
    Ok(())
}

/// Drives all futures on this task, and gives their outputs in order.
async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures
        .into_iter()
        .map(|future| (Box::pin(future), None))
        .collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (future, output) in &mut futures {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(ready) => *output = Some(ready),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending {
            std::task::Poll::Pending
        } else {
            std::task::Poll::Ready(())
        }
    })
    .await;
    futures
        .into_iter()
        .map(|(_, output)| output.expect("every future is ready"))
        .collect()
}

/// The least guest memory in which a container still runs.
pub(crate) async fn smallest(kit: &Kit, table: &mut Table) -> Outcome {
    let (_state, runtime) = runtime(kit)?;
    let root = Busybox::new()?;
    let mut least = None;
    for mebibytes in [256, 128, 96, 80, 64, 56, 48, 40, 32] {
        if runs_with(&runtime, &root, mebibytes).await.is_err() {
            break;
        }
        least = Some(mebibytes);
    }
    let least = least.ok_or("no container runs in 256 MiB")?;
    table.add(
        "the least guest memory that runs a container",
        bytes(least << 20),
        bytes(128 << 20),
        Bar::AtMost(1.0),
    );
    Ok(())
}

async fn runs_with(runtime: &Runtime, root: &Busybox, mebibytes: u64) -> Outcome {
    let sandbox = runtime
        .sandbox("small")
        .memory(MemorySize::mib(mebibytes))
        .boot_timeout(Duration::from_secs(15))
        .start()
        .await?;
    let spec = ContainerSpec::new(Rootfs::Dir(root.root())).command(["/bin/true"]);
    let ran = async {
        let container = sandbox.container("small", spec).await?;
        Outcome::Ok(container.start().await?.wait().await?)
    };
    let ran = ran.await;
    sandbox.stop(Duration::ZERO).await?;
    sandbox.delete().await?;
    if ran?.success() {
        Ok(())
    } else {
        Err("`true` failed".into())
    }
}
