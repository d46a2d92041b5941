//! What tests with a real guest share: an image, a root file system, and a
//! look at what is left on the host.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(
    clippy::allow_attributes,
    reason = "which part is unused differs by file"
)]

pub(crate) mod detached;
pub(crate) mod fake;
pub(crate) mod image;
pub(crate) mod leftovers;
pub(crate) mod mortal;
pub(crate) mod network;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kata_sandbox::{
    Container, ContainerSpec, MemorySize, Output, Rootfs, Runtime, RuntimeBuilder, Sandbox,
};
use tempfile::TempDir;

/// One test at a time: each counts what the process has.
static ALONE: Mutex<()> = Mutex::new(());

/// Tests that have come so far. Each has a tokio runtime by then, and waits with
/// it for its turn.
static ARRIVED: AtomicUsize = AtomicUsize::new(0);

/// A host on which real guests can be tested, by one test at a time.
pub(crate) struct Host {
    _alone: MutexGuard<'static, ()>,
    image: PathBuf,
    busybox: PathBuf,
    /// Short: sockets are below it.
    pub(crate) directory: TempDir,
}

impl Host {
    /// `None`, aloud, where the environment has no guest image or busybox.
    pub(crate) fn new() -> Option<Self> {
        let busybox = std::env::var_os("KATA_BUSYBOX").map_or("/bin/busybox".into(), PathBuf::from);
        let Some(image) = std::env::var_os("KATA_GUEST_IMAGE").map(PathBuf::from) else {
            eprintln!("skipped: KATA_GUEST_IMAGE names no guest image");
            return None;
        };
        if !busybox.is_file() {
            eprintln!(
                "skipped: there is no static busybox at {}",
                busybox.display()
            );
            return None;
        }
        ARRIVED.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::Builder::new().prefix("kata").tempdir().unwrap();
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Self {
            _alone,
            image,
            busybox,
            directory,
        })
    }

    pub(crate) fn builder(&self) -> RuntimeBuilder {
        Runtime::builder()
            .state_dir(self.state_dir())
            .guest_image(&self.image)
    }

    /// The guest image's directory.
    pub(crate) fn image(&self) -> &Path {
        &self.image
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    pub(crate) fn runtime(&self) -> Runtime {
        self.builder().build().unwrap()
    }

    pub(crate) async fn start(&self, runtime: &Runtime, id: &str) -> Sandbox {
        let builder = runtime.sandbox(id).memory(MemorySize::mib(128));
        match builder.boot_timeout(Duration::from_secs(180)).start().await {
            Ok(sandbox) => sandbox,
            Err(error) => {
                let console = String::from_utf8_lossy(error.console_tail().unwrap_or_default());
                panic!("{error:#}\n{console}");
            }
        }
    }

    /// A directory with busybox and a few files, fresh for each caller.
    pub(crate) fn rootfs(&self, name: &str) -> PathBuf {
        let root = self.directory.path().join(name);
        for part in ["bin", "proc", "sys", "dev", "tmp", "etc", "data"] {
            std::fs::create_dir_all(root.join(part)).unwrap();
        }
        let tools = root.join("bin/busybox");
        std::fs::copy(&self.busybox, &tools).unwrap();
        let list = std::process::Command::new(&self.busybox)
            .arg("--list")
            .output()
            .unwrap();
        for applet in String::from_utf8(list.stdout).unwrap().lines() {
            let link = root.join("bin").join(applet);
            if !link.exists() {
                std::os::unix::fs::symlink("busybox", link).unwrap();
            }
        }
        let files = [
            (
                "passwd",
                "root:x:0:0:root:/:/bin/sh\nweb:x:1000:1001:web:/:/bin/sh\n",
            ),
            ("group", "root:x:0:\nweb:x:1001:\nstaff:x:50:web\n"),
        ];
        for (name, content) in files {
            std::fs::write(root.join("etc").join(name), content).unwrap();
        }
        root
    }

    pub(crate) fn spec(&self, rootfs: &Path, script: &str) -> ContainerSpec {
        ContainerSpec::new(Rootfs::Dir(rootfs.to_owned())).command(["/bin/sh", "-c", script])
    }

    /// A container that sleeps, to execute things in.
    pub(crate) async fn sleeper(&self, sandbox: &Sandbox, id: &str) -> Container {
        let rootfs = self.rootfs(&format!("{}-{id}", sandbox.id()));
        let spec = self.spec(&rootfs, "exec sleep 100000");
        let container = sandbox.container(id, spec).await.unwrap();
        container.start().await.unwrap();
        container
    }
}

impl Drop for Host {
    /// Ends what the test detached and did not end, as one that panics does:
    /// supervisors by their ids, and what they leave by a sweep.
    fn drop(&mut self) {
        for pid in mortal::processes_of(&self.state_dir()).into_keys() {
            let pid = i32::try_from(pid)
                .ok()
                .and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                // It may have ended by itself by now.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        if self.state_dir().is_dir()
            && let Err(error) = self.builder().build()
        {
            eprintln!("left behind: {error:#}");
        }
    }
}

/// Runs a script in a container to its end.
pub(crate) async fn sh(container: &Container, script: &str) -> Output {
    let exec = container.exec("/bin/sh").args(["-c", script]);
    exec.timeout(Duration::from_secs(60))
        .output()
        .await
        .unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
