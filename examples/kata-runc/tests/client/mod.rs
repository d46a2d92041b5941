//! A container engine's command line, with all it keeps in a directory of its
//! own.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    dead_code,
    reason = "each suite uses its own part"
)]

pub(crate) mod image;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tempfile::TempDir;

use crate::common::{KATA_RUNC, Ran, make_rootfs, ran, write_config};

/// Engines of this age want cgroup v1 alone; a host that has an empty cgroup v2
/// beside it hides that from them.
const HIDE: &str = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";

/// An engine's command line.
pub(crate) struct Client {
    directory: TempDir,
    image: String,
    template: Command,
    /// Commands that remove all containers.
    cleanups: Vec<&'static [&'static str]>,
    daemon: Option<Daemon>,
}

/// An engine's daemon, ended when dropped.
pub(crate) struct Daemon(Child);

impl Client {
    /// `configure` writes the engine's files into a directory and adds what
    /// every command of it has; the path is the runtime's.
    pub(crate) fn new(program: &str, configure: impl FnOnce(&Path, &Path, &mut Command)) -> Self {
        // Short: sockets are below it.
        let directory = tempfile::Builder::new().prefix("kc-").tempdir().unwrap();
        let runtime = directory.path().join("kata-runc");
        fs::write(&runtime, wrapper(directory.path())).unwrap();
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
        write_config(directory.path());
        let root = directory.path().join("image");
        make_rootfs(&root);
        let image = directory.path().join("image.tar");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&root).arg("-cf").arg(&image).arg(".");
        assert!(tar.status().unwrap().success());
        let mut template = hidden(program);
        configure(directory.path(), &runtime, &mut template);
        Self {
            image: image.display().to_string(),
            directory,
            template,
            cleanups: Vec::new(),
            daemon: None,
        }
    }

    /// Has a command run at the end, however that comes.
    pub(crate) fn finally(&mut self, args: &'static [&'static str]) {
        self.cleanups.push(args);
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// An archive of a root file system with busybox.
    pub(crate) fn image(&self) -> &str {
        &self.image
    }

    /// The runtime, by a path that engines can be given.
    pub(crate) fn runtime(&self) -> PathBuf {
        self.directory.path().join("kata-runc")
    }

    /// Starts the engine's daemon, and waits until it listens on that socket in
    /// the directory and `ready` succeeds. Answers why it does not.
    pub(crate) fn start_daemon(
        &mut self,
        mut command: Command,
        socket: &str,
        ready: &[&str],
    ) -> Option<String> {
        let log = self.directory.path().join("daemon.log");
        let file = fs::File::create(&log).unwrap();
        command.stdin(Stdio::null());
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        let created = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&watch, self.directory.path(), created).unwrap();
        let daemon = match command.spawn() {
            Ok(daemon) => self.daemon.insert(Daemon(daemon)),
            Err(error) => return Some(error.to_string()),
        };
        let listens = appears(&watch, &self.directory.path().join(socket), &daemon.0);
        // Whoever connects from now on is served once the engine is up.
        if listens && ran(&copied(&self.template, ready), "").code == Some(0) {
            return None;
        }
        let log = fs::read_to_string(&log).unwrap_or_default();
        Some(log.lines().rev().take(3).collect::<Vec<_>>().join("; "))
    }

    /// The id of the daemon's process.
    pub(crate) fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().0.id()
    }

    /// Ends the daemon, and waits for its end.
    pub(crate) fn end_daemon(&mut self) {
        self.daemon = None;
    }

    /// Why a command that must always work does not.
    pub(crate) fn unusable(&self, args: &[&str]) -> Option<String> {
        let ran = self.ran(args, "");
        (ran.code != Some(0)).then_some(ran.stderr)
    }

    pub(crate) fn ran(&self, args: &[&str], input: &str) -> Ran {
        ran(&copied(&self.template, args), input)
    }

    /// Runs a command that must succeed, and answers what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let ran = self.ran(args, "");
        assert_eq!(ran.code, Some(0), "{args:?}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    /// Runs a command on a terminal, and answers what it showed.
    #[track_caller]
    pub(crate) fn on_a_terminal(&self, args: &[&str]) -> String {
        let command = copied(&self.template, args);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line: Vec<String> = words
            .map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''")))
            .collect();
        let mut script = Command::new("script");
        script.args(["-qec", &line.join(" "), "/dev/null"]);
        for (key, value) in command.get_envs() {
            script.env(key, value.unwrap_or_default());
        }
        let ran = ran(&script, "");
        assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.stdout);
        ran.stdout
    }
}

/// Waits until there is a file of that path, or the process or its time ends.
fn appears(watch: &OwnedFd, path: &Path, process: &Child) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    let pid = i32::try_from(process.id())
        .ok()
        .and_then(Pid::from_raw)
        .unwrap();
    let ended = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    while !path.exists() {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap();
        let mut happens = [
            PollFd::new(watch, PollFlags::IN),
            PollFd::new(&ended, PollFlags::IN),
        ];
        let count = poll(&mut happens, Some(&left)).unwrap();
        if count == 0 || happens[1].revents().contains(PollFlags::IN) {
            return false;
        }
        let mut events = [0; 4096];
        rustix::io::read(watch, &mut events).unwrap();
    }
    true
}

/// A command in a mount namespace without the empty cgroup v2.
pub(crate) fn hidden(program: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", HIDE, "sh", program]);
    command
}

/// The same, in a network namespace of its own too.
pub(crate) fn apart(program: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("ip link set lo up; {HIDE}");
    command.args(["-m", "-n", "sh", "-c", &script, "sh", program]);
    command
}

fn copied(template: &Command, args: &[&str]) -> Command {
    let mut command = Command::new(template.get_program());
    command.args(template.get_args()).args(args);
    for (key, value) in template.get_envs() {
        command.env(key, value.unwrap_or_default());
    }
    command
}

/// Engines start runtimes with an environment of their own.
fn wrapper(directory: &Path) -> String {
    let image = std::env::var("KATA_GUEST_IMAGE").unwrap_or_default();
    let config = directory.join("kata-runc.toml").display().to_string();
    format!(
        "#!/bin/sh\nexport KATA_GUEST_IMAGE='{image}'\n\
         exec '{KATA_RUNC}' --config '{config}' \"$@\"\n"
    )
}

impl Drop for Client {
    fn drop(&mut self) {
        for args in &self.cleanups {
            // There may be nothing to remove.
            let _ = self.ran(args, "");
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id())
            && let Some(pid) = Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}
