//! What kata-runc's command line costs, against the library itself and beside runc.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use kata_examples::Busybox;
use kata_sandbox::{ContainerSpec, Rootfs, Runtime};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::Kit;
use crate::host::{mib, pss_beside_memory};
use crate::supervisor::{median, owner};
use crate::table::{Bar, Table};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const ROUNDS: usize = 5;
/// Commands that ask no guest are short, and so measured more often.
const QUICK_ROUNDS: usize = 21;
/// What `exec` may take beyond the library's, in milliseconds.
const EXEC_MORE: f64 = 40.0;
/// What a command may take that asks no guest, in milliseconds.
const QUICK: f64 = 20.0;

/// A command line with a `--root` and bundles of its own.
struct Cli {
    program: PathBuf,
    takes_config: bool,
    place: TempDir,
}

impl Cli {
    fn new(program: PathBuf, takes_config: bool) -> Outcome<Self> {
        let place = tempfile::Builder::new().prefix("kata-bench-").tempdir()?;
        let config = format!("state_dir = '{}'\n", place.path().join("s").display());
        std::fs::write(place.path().join("config.toml"), config)?;
        Ok(Self {
            program,
            takes_config,
            place,
        })
    }

    /// Runs a command to its end, and says how long it took and what it printed.
    async fn run(&self, arguments: &[&str]) -> Outcome<(Duration, String)> {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.place.path().join("root"));
        if self.takes_config {
            command
                .arg("--config")
                .arg(self.place.path().join("config.toml"));
        }
        command.args(arguments);
        // Not pipes: a container that goes on would keep them open.
        let [out, said] = ["out", "said"].map(|name| self.place.path().join(name));
        command.stdin(Stdio::null());
        command.stdout(std::fs::File::create(&out)?);
        command.stderr(std::fs::File::create(&said)?);
        let began = Instant::now();
        let status = command.status().await?;
        let took = began.elapsed();
        if !status.success() {
            let said = std::fs::read_to_string(&said)?;
            return Err(format!("{arguments:?} ended with {status}: {said}").into());
        }
        Ok((took, std::fs::read_to_string(&out)?))
    }

    /// A bundle that runs `arguments`, with further annotations.
    async fn bundle(
        &self,
        name: &str,
        root: &Busybox,
        arguments: &[&str],
        annotations: Value,
    ) -> Outcome<String> {
        let bundle = self.place.path().join(name);
        std::fs::create_dir_all(&bundle)?;
        let text = bundle.display().to_string();
        let path = bundle.join("config.json");
        if path.exists() {
            std::fs::remove_file(&path)?;
        }
        self.run(&["spec", "--bundle", &text]).await?;
        let mut spec: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(arguments);
        spec["root"] = json!({ "path": root.root(), "readonly": false });
        spec["annotations"] = annotations;
        let group = self.place.path().file_name().unwrap_or_default();
        spec["linux"]["cgroupsPath"] = json!(format!("/{}", group.to_string_lossy()));
        std::fs::write(&path, spec.to_string())?;
        Ok(text)
    }

    /// The process that stands for a container.
    async fn pid(&self, id: &str) -> Outcome<u32> {
        let (_, state) = self.run(&["state", id]).await?;
        let state: Value = serde_json::from_str(&state)?;
        let pid = state["pid"].as_u64().ok_or("no pid in the state")?;
        Ok(u32::try_from(pid)?)
    }
}

/// A program of that name in `$PATH`.
fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut places = std::env::split_paths(&path).map(|directory| directory.join(name));
    places.find(|program| program.is_file())
}

fn limit(most: f64) -> (f64, String) {
    (most, format!("{most:.1} ms"))
}

/// `true` in a machine of its own, by the library alone, to the end of all.
async fn library_run(runtime: &Runtime, root: &Busybox) -> Outcome<Duration> {
    let began = Instant::now();
    let sandbox = runtime.sandbox("library").start().await?;
    let spec = ContainerSpec::new(Rootfs::Dir(root.root())).command(["/bin/true"]);
    let container = sandbox.container("true", spec).await?;
    container.start().await?.wait().await?;
    sandbox.stop(Duration::ZERO).await?;
    sandbox.delete().await?;
    Ok(began.elapsed())
}

/// All of `kata-runc`: needs its program in `KATA_RUNC`.
pub(crate) async fn runc(kit: &Kit, table: &mut Table) -> Outcome {
    let Some(program) = std::env::var_os("KATA_RUNC").map(PathBuf::from) else {
        println!("skipped kata-runc: set KATA_RUNC, or use `make bench`");
        return Ok(());
    };
    let root = Busybox::new()?;
    let ours = Cli::new(program, true)?;
    let beside = installed("runc").map(|program| Cli::new(program, false));
    let beside = beside.transpose()?;
    if beside.is_none() {
        println!("runc is not installed: nothing stands beside kata-runc");
    }
    let state = tempfile::Builder::new().prefix("kata-bench-").tempdir()?;
    let runtime = Runtime::builder()
        .state_dir(state.path())
        .guest_image(&kit.image)
        .build()?;
    runs(&ours, beside.as_ref(), &runtime, &root, table).await?;
    commands(&ours, beside.as_ref(), &runtime, &root, table).await?;
    memory(&ours, &root, table).await
}

/// `run` of `true`, end to end.
async fn runs(
    ours: &Cli,
    beside: Option<&Cli>,
    runtime: &Runtime,
    root: &Busybox,
    table: &mut Table,
) -> Outcome {
    let bundle = ours.bundle("true", root, &["/bin/true"], json!({})).await?;
    let (mut library, mut cli, mut runc) = (Vec::new(), Vec::new(), Vec::new());
    // One round to warm up: page cache, probe, checksums.
    for round in 0..=ROUNDS {
        let [mut alone, mut whole] = [Duration::ZERO; 2];
        // Each goes first in turn.
        for ours_now in [round % 2 == 0, round % 2 != 0] {
            if ours_now {
                let run = ["run", "--bundle", &bundle, "bench"];
                whole = ours.run(&run).await?.0;
            } else {
                alone = library_run(runtime, root).await?;
            }
        }
        if round > 0 {
            library.push(alone);
            cli.push(whole);
        }
        if let Some(beside) = beside {
            runc.push(beside.run(&["run", "--bundle", &bundle, "bench"]).await?.0);
        }
    }
    let cli = median(cli);
    let name = "`kata-runc run` of `true` / the library's start, run and stop";
    table.add(name, cli.clone(), median(library), Bar::AtMost(1.15));
    if !runc.is_empty() {
        let name = "`kata-runc run` of `true` / runc's";
        table.add(name, cli, median(runc), Bar::None);
    }
    Ok(())
}

/// `exec`, and the commands that ask no guest, of a container that runs.
async fn commands(
    ours: &Cli,
    beside: Option<&Cli>,
    runtime: &Runtime,
    root: &Busybox,
    table: &mut Table,
) -> Outcome {
    let idle = ["/bin/sleep", "3600"];
    let sandbox = runtime.sandbox("library").start().await?;
    let spec = ContainerSpec::new(Rootfs::Dir(root.root())).command(idle);
    let container = sandbox.container("idle", spec).await?;
    container.start().await?;
    for cli in [Some(ours), beside].into_iter().flatten() {
        // Each its own, whose control group is its own too.
        let bundle = cli.bundle("idle", root, &idle, json!({})).await?;
        cli.run(&["run", "--detach", "--bundle", &bundle, "bench"])
            .await?;
    }
    let (mut library, mut execs, mut runc) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..=ROUNDS {
        let began = Instant::now();
        container.exec("/bin/true").spawn().await?.wait().await?;
        library.push(began.elapsed());
        execs.push(ours.run(&["exec", "bench", "/bin/true"]).await?.0);
        if let Some(beside) = beside {
            runc.push(beside.run(&["exec", "bench", "/bin/true"]).await?.0);
        }
    }
    let exec = median(execs);
    let name = "`kata-runc exec` of `true` / the library's, and 40 ms";
    let most = limit(median(library).0 + EXEC_MORE);
    table.add(name, exec.clone(), most, Bar::AtMost(1.0));
    if !runc.is_empty() {
        let name = "`kata-runc exec` of `true` / runc's";
        table.add(name, exec, median(runc), Bar::None);
    }
    for (name, arguments) in [
        ("`kata-runc state`", &["state", "bench"][..]),
        ("`kata-runc list`", &["list"]),
        (
            "`kata-runc kill` of a container that runs",
            &["kill", "bench", "CONT"],
        ),
    ] {
        let mut took = Vec::new();
        for _ in 0..QUICK_ROUNDS {
            took.push(ours.run(arguments).await?.0);
        }
        table.add(name, median(took), limit(QUICK), Bar::AtMost(1.0));
    }
    for cli in [Some(ours), beside].into_iter().flatten() {
        cli.run(&["delete", "--force", "bench"]).await?;
    }
    sandbox.stop(Duration::ZERO).await?;
    sandbox.delete().await?;
    Ok(())
}

/// What a pod's processes of ours take of the host's memory.
async fn memory(ours: &Cli, root: &Busybox, table: &mut Table) -> Outcome {
    let idle = ["/bin/sleep", "3600"];
    let annotations = json!({ "io.kubernetes.cri.container-type": "sandbox" });
    let pod = ours.bundle("pod", root, &idle, annotations).await?;
    let annotations = json!({
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-id": "pod",
    });
    let further = ours.bundle("further", root, &idle, annotations).await?;
    ours.run(&["run", "--detach", "--bundle", &pod, "pod"])
        .await?;
    let supervisor = owner(&ours.place.path().join("s"), "pod")?;
    let first = ours.pid("pod").await?;
    let one = pss_beside_memory(supervisor)? + pss_beside_memory(first)?;
    ours.run(&["run", "--detach", "--bundle", &further, "further"])
        .await?;
    let second = ours.pid("further").await?;
    let both =
        pss_beside_memory(supervisor)? + pss_beside_memory(first)? + pss_beside_memory(second)?;
    for id in ["further", "pod"] {
        ours.run(&["delete", "--force", id]).await?;
    }
    let more = both.saturating_sub(one);
    for (name, bytes, most) in [
        (
            "supervisor and proxy of a pod of one container (PSS)",
            one,
            12 << 20,
        ),
        ("each further container of a pod (PSS)", more, 3 << 20),
    ] {
        #[expect(clippy::cast_precision_loss, reason = "for people to read")]
        let bytes = bytes as f64;
        let most = f64::from(most);
        table.add(
            name,
            (bytes, mib(bytes)),
            (most, mib(most)),
            Bar::AtMost(1.0),
        );
    }
    Ok(())
}
