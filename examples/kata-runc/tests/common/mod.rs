//! What the suites share: the two runtimes, bundles, and commands with a
//! deadline.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    dead_code,
    reason = "each suite uses its own part"
)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The program under test.
pub(crate) const KATA_RUNC: &str = env!("CARGO_BIN_EXE_kata-runc");

/// Why the machine cannot run containers in guests, if it cannot.
pub(crate) fn lacks_guest() -> Option<&'static str> {
    if !is_root() {
        return Some("it needs root");
    }
    if std::env::var_os("KATA_GUEST_IMAGE").is_none() {
        return Some("KATA_GUEST_IMAGE names no guest image");
    }
    if !busybox().exists() {
        return Some("there is no static busybox");
    }
    None
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn busybox() -> PathBuf {
    std::env::var_os("KATA_BUSYBOX").map_or("/bin/busybox".into(), Into::into)
}

/// Whether there is a program of that name.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(program).is_file())
}

/// Writes kata-runc's configuration: sandboxes have their state in a directory
/// too, so that it is gone with it. `KATA_TEST_HYPERVISOR` names the only
/// hypervisor that will do.
pub(crate) fn write_config(directory: &Path) {
    let mut text = format!("state_dir = '{}'\n", directory.join("s").display());
    if let Ok(hypervisor) = std::env::var("KATA_TEST_HYPERVISOR") {
        text += &format!("hypervisor = '{hypervisor}'\n");
    }
    fs::write(directory.join("kata-runc.toml"), text).unwrap();
}

/// A root file system with busybox's programs.
pub(crate) fn make_rootfs(root: &Path) {
    for name in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "vol"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::copy(busybox(), root.join("bin/busybox")).unwrap();
    for program in [
        "cat", "echo", "false", "grep", "hostname", "id", "ip", "kill", "ls", "nc", "ps", "pwd",
        "sh", "sleep", "stty", "test", "touch", "true", "tty",
    ] {
        symlink("busybox", root.join("bin").join(program)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\n").unwrap();
}

/// A runtime's command line, with a `--root` and bundles of its own.
pub(crate) struct Runtime {
    pub(crate) name: &'static str,
    program: PathBuf,
    pub(crate) directory: TempDir,
}

/// Both runtimes: the one that is copied, where it is installed, and ours.
pub(crate) fn runtimes() -> Vec<Runtime> {
    let mut all = Vec::new();
    if has("runc") {
        all.push(Runtime::new("runc", "runc"));
    } else {
        eprintln!("skipped: runc is not installed, so that there is nothing to compare with");
    }
    all.push(Runtime::kata());
    all
}

impl Runtime {
    fn new(name: &'static str, program: impl Into<PathBuf>) -> Self {
        let directory = tempfile::Builder::new().prefix("kr-").tempdir().unwrap();
        write_config(directory.path());
        Self {
            name,
            program: program.into(),
            directory,
        }
    }

    pub(crate) fn kata() -> Self {
        Self::new("kata-runc", KATA_RUNC)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// A bundle that runs `args`.
    pub(crate) fn bundle(&self, args: &[&str]) -> PathBuf {
        self.bundle_with(args, |_| ())
    }

    /// The same, with other changes.
    pub(crate) fn bundle_with(&self, args: &[&str], edit: impl FnOnce(&mut Value)) -> PathBuf {
        let bundle = self.directory.path().join("bundle");
        if !bundle.exists() {
            make_rootfs(&bundle.join("rootfs"));
        }
        let _ = fs::remove_file(bundle.join("config.json"));
        let made = Command::new(KATA_RUNC)
            .args(["spec", "--bundle"])
            .arg(&bundle)
            .status()
            .unwrap();
        assert!(made.success());
        let path = bundle.join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(args);
        spec["root"]["readonly"] = json!(false);
        // By default it is the id's, which suites beside this one have too.
        let own = self.directory.path().file_name().unwrap();
        spec["linux"]["cgroupsPath"] = json!(format!("/{}", own.to_str().unwrap()));
        edit(&mut spec);
        fs::write(&path, spec.to_string()).unwrap();
        bundle
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.root());
        if self.name == "kata-runc" {
            let config = self.directory.path().join("kata-runc.toml");
            command.arg("--config").arg(config);
        }
        command.args(args);
        command
    }

    /// Runs a command in the bundle's directory.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        let mut command = self.command(args);
        let bundle = self.directory.path().join("bundle");
        command.current_dir(if bundle.exists() {
            &bundle
        } else {
            Path::new("/")
        });
        ran(&command, "")
    }

    /// Runs one that must succeed, and answers what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(0), "{} {args:?}: {}", self.name, ran.stderr);
        ran.stdout
    }

    /// Runs one that must fail, and answers why.
    #[track_caller]
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_ne!(ran.code, Some(0), "{} {args:?} succeeded", self.name);
        ran.stderr
    }

    pub(crate) fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["state", id])).unwrap()
    }

    #[track_caller]
    pub(crate) fn assert_status(&self, id: &str, status: &str) {
        assert_eq!(self.state(id)["status"], status, "{}", self.name);
    }

    /// Waits until a container is stopped.
    pub(crate) fn wait_stopped(&self, id: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let pid = self.state(id)["pid"].as_i64().unwrap();
        wait_for_end(i32::try_from(pid).unwrap(), deadline);
        self.assert_status(id, "stopped");
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let listed = ran(&self.command(&["list", "-q"]), "");
        for id in listed.stdout.lines() {
            ran(&self.command(&["delete", "--force", id]), "");
        }
    }
}

/// Waits for the end of a process that is no child of ours.
pub(crate) fn wait_for_end(pid: i32, deadline: Instant) {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else {
        return;
    };
    let Ok(process) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
        return;
    };
    let left = deadline.saturating_duration_since(Instant::now());
    let left = rustix::event::Timespec::try_from(left).unwrap();
    let mut ended = [rustix::event::PollFd::new(
        &process,
        rustix::event::PollFlags::IN,
    )];
    let count = rustix::event::poll(&mut ended, Some(&left)).unwrap();
    assert_eq!(count, 1, "process {pid:?} is still there");
}

/// The supervisor that was started by commands of this runtime: the one process
/// that has the bundle's file system open.
pub(crate) fn supervisor_of(runtime: &Runtime) -> i32 {
    let bundle = runtime.directory.path().join("bundle");
    let holds = |pid: &str| {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let mut targets = entries
            .flatten()
            .filter_map(|it| fs::read_link(it.path()).ok());
        targets
            .any(|target| target.starts_with(&bundle))
            .then_some(())
    };
    let is_supervisor = |pid: &str| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.ends_with(b"\0supervisor\0")
    };
    let found = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().into_string().ok()?;
        (is_supervisor(&pid) && holds(&pid).is_some()).then(|| pid.parse().ok())?
    });
    found.expect("a supervisor with the bundle open")
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

/// Runs a command to its end, with that input; fails after two minutes.
pub(crate) fn ran(command: &Command, input: &str) -> Ran {
    let shown = format!("{command:?}");
    let began = Instant::now();
    let output = finish(command, input, &shown);
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: began.elapsed(),
    }
}

fn finish(command: &Command, input: &str, shown: &str) -> Output {
    let mut limited = Command::new("timeout");
    limited.args(["--kill-after=5", "120"]);
    limited.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            limited.env(key, value);
        }
    }
    if let Some(directory) = command.get_current_dir() {
        limited.current_dir(directory);
    }
    // Files, not pipes: what is left running must not be waited for.
    let out = tempfile::NamedTempFile::new().unwrap();
    let err = tempfile::NamedTempFile::new().unwrap();
    limited
        .stdin(Stdio::piped())
        .stdout(out.reopen().unwrap())
        .stderr(err.reopen().unwrap());
    let mut child = limited
        .spawn()
        .unwrap_or_else(|error| panic!("{shown}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let status = child.wait().unwrap();
    assert_ne!(
        status.code(),
        Some(124),
        "{shown} took more than two minutes"
    );
    Output {
        status,
        stdout: fs::read(out.path()).unwrap(),
        stderr: fs::read(err.path()).unwrap(),
    }
}
