//! What starts sandboxes.

use std::path::PathBuf;
use std::sync::Arc;

use kata_hypervisor::{Hypervisor, Probe};
use kata_network::Network;

use crate::backends::Backends;
use crate::builder::SandboxBuilder;
use crate::engine::journal_error;
use crate::error::{Context, ErrorKind, Result};
use crate::event::{EventHub, Events};
use crate::home::Home;
use crate::image::{GuestImage, VerifiedImages};
use crate::journal::{StateDir, Steps};
use crate::recover::{self, Recovered};
use crate::registry::Registry;
use crate::sandbox::{Sandbox, SandboxStatus};
use crate::supervisor::{self, Supervisor};

/// Where sandboxes have their state when nothing else is said.
const STATE_DIR: &str = "/run/kata-sandbox";
/// Where the guest image is looked for when nothing else is said.
const GUEST_IMAGE: &str = "/usr/share/kata-sandbox/image";

/// What starts sandboxes. Clones are the same runtime; dropping it ends no
/// sandbox.
#[derive(Clone, Debug)]
pub struct Runtime {
    shared: Arc<Shared>,
}

/// What the sandboxes of a runtime share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) backends: Backends,
    pub(crate) state: StateDir,
    pub(crate) image: GuestImage,
    pub(crate) images: VerifiedImages,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) events: EventHub,
    pub(crate) registry: Registry,
    /// How to start the processes of sandboxes that outlive this one.
    pub(crate) supervisor: Option<Supervisor>,
    /// Sandboxes of dead processes that were removed when this was built.
    swept: std::sync::Mutex<Vec<String>>,
}

/// Describes a [`Runtime`]. With nothing set it is valid.
///
/// ```no_run
/// use kata_sandbox::{Runtime, hypervisor::qemu::Qemu, network};
///
/// # fn build() -> kata_sandbox::Result<()> {
/// let runtime = Runtime::builder()
///     .hypervisor(Qemu::default())
///     .state_dir("/run/user/1000/kata")
///     .guest_image("/var/lib/kata/image")
///     .network(network::None)
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RuntimeBuilder {
    backends: Backends,
    state_dir: PathBuf,
    image: GuestImage,
    network: Arc<dyn Network>,
    supervisor: Option<Supervisor>,
    steps: Steps,
}

impl Runtime {
    /// Describes a runtime.
    #[must_use]
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder {
            backends: Backends::default(),
            state_dir: STATE_DIR.into(),
            image: GuestImage::Directory(GUEST_IMAGE.into()),
            network: Arc::new(kata_network::None),
            supervisor: None,
            steps: Steps::default(),
        }
    }

    /// What each hypervisor finds on this host: whether it works, and if not,
    /// why and what would help. Asks once and remembers.
    pub async fn probe(&self) -> Vec<(&'static str, Probe)> {
        self.shared.backends.probe().await
    }

    /// Describes a sandbox, to be started.
    pub fn sandbox(&self, id: impl Into<String>) -> SandboxBuilder {
        SandboxBuilder::new(Arc::clone(&self.shared), id.into())
    }

    /// A sandbox that this runtime has started, or is attached to.
    ///
    /// # Errors
    /// `NotFound` when there is none of that id.
    pub fn get(&self, id: &str) -> Result<Sandbox> {
        let home = self.shared.registry.get(id).ok_or_else(|| {
            let context = Context::new("find sandbox", crate::id::shown(id));
            context.error(
                ErrorKind::NotFound,
                "this runtime has no sandbox of that id",
            )
        })?;
        Ok(Sandbox::new(home))
    }

    /// The sandboxes of this runtime that have been started and not deleted,
    /// and all in its state directory that have a supervisor, whoever started
    /// them. One whose supervisor was killed is [`SandboxState::Lost`], until
    /// [`Runtime::recover`] has removed what is left of it; one whose supervisor
    /// runs and cannot be asked is [`SandboxState::Unknown`]. Asks no guest.
    ///
    /// [`SandboxState::Lost`]: crate::SandboxState::Lost
    /// [`SandboxState::Unknown`]: crate::SandboxState::Unknown
    ///
    /// # Errors
    /// When the state directory cannot be read.
    pub async fn list(&self) -> Result<Vec<SandboxStatus>> {
        recover::list(&self.shared).await
    }

    /// Attaches to a sandbox that was started with
    /// [`OnDrop::Detach`](crate::OnDrop::Detach), by this program or another
    /// one. Any number may be attached at once.
    ///
    /// # Errors
    /// `NotFound` when there is no such sandbox in the state directory,
    /// `GuestLost` when its supervisor is gone, `InvalidState` when it lives in
    /// another program itself, `Unsupported` when its supervisor speaks another
    /// version of the protocol, `Denied` when it is another user's.
    pub async fn attach(&self, id: &str) -> Result<Sandbox> {
        if let Some(home) = self.shared.registry.get(id) {
            return Ok(Sandbox::new(home));
        }
        let client = supervisor::attach(&self.shared, id).await?;
        let home = Home::there(client);
        self.shared.registry.enter(id, &home);
        Ok(Sandbox::new(home))
    }

    /// Events of all sandboxes, from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        self.shared.events.listen(None)
    }

    /// Takes stock after a crash: the sandboxes of this runtime, and what was
    /// cleaned up of those whose processes have died. Each sandbox is looked at
    /// by itself: one that cannot be recovered keeps no other from it, and is
    /// told as [`Recovered::Failed`].
    ///
    /// `poststop` hooks of containers whose supervisor has died are run, each for
    /// a minute at most where it has no timeout of its own.
    ///
    /// # Errors
    /// When the state directory cannot be read. What could not be cleaned up is
    /// no error, but told in [`Recovered::Gone`] and [`Recovered::Failed`].
    pub async fn recover(&self) -> Result<Vec<Recovered>> {
        recover::recover(self, &self.shared).await
    }

    /// What was removed when the runtime was built; told once.
    pub(crate) fn take_swept(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.shared.swept))
    }
}

impl RuntimeBuilder {
    /// Adds a hypervisor. Of several, a sandbox takes the best that works on
    /// this host, unless it names one; of equals, the first that was added.
    /// With none added, there are the monitor in this process (feature `kvm`), which
    /// is preferred where KVM runs stock kernels, and QEMU (feature `qemu`).
    #[must_use]
    pub fn hypervisor(mut self, hypervisor: impl Hypervisor) -> Self {
        self.backends.add(hypervisor);
        self
    }

    /// The directory in which sandboxes have their state, by default
    /// `/run/kata-sandbox`; without root, such as `/run/user/1000/kata`. It is
    /// made where missing. Short: sockets are below it. Several runtimes, in
    /// several processes, may share it. It belongs to this user, nobody else may
    /// write to it, and it is no symbolic link: what its records say is done.
    #[must_use]
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = path.into();
        self
    }

    /// The guest image: a directory with a `manifest.json`, as `kata-image`
    /// makes it; by default `/usr/share/kata-sandbox/image`. It is verified
    /// against its checksums before it is used, and again when it has changed.
    #[must_use]
    pub fn guest_image(mut self, directory: impl Into<PathBuf>) -> Self {
        self.image = GuestImage::Directory(directory.into());
        self
    }

    /// A guest without a manifest, such as a released Kata image: a kernel, and
    /// an initramfs in which the agent is started. They are taken as they are.
    #[must_use]
    pub fn guest_files(
        mut self,
        kernel: impl Into<PathBuf>,
        initramfs: impl Into<PathBuf>,
    ) -> Self {
        self.image = GuestImage::Files {
            kernel: kernel.into(),
            initramfs: initramfs.into(),
        };
        self
    }

    /// The network of sandboxes that choose no other; by default, none.
    #[must_use]
    pub fn network(mut self, network: impl Network) -> Self {
        self.network = Arc::new(network);
        self
    }

    /// How to start the processes of sandboxes that outlive this program; see
    /// [`crate::supervisor`]. Without, none can be started.
    #[must_use]
    pub fn supervisor(mut self, supervisor: Supervisor) -> Self {
        self.supervisor = Some(supervisor);
        self
    }

    /// Tells `listener` each step of making and removing a sandbox, by name, at
    /// the moment at which the process may die there: for tests that let it.
    #[doc(hidden)]
    #[must_use]
    pub fn on_journal_step(
        mut self,
        listener: impl Fn(&'static str) + Send + Sync + 'static,
    ) -> Self {
        self.steps = Steps::told_to(listener);
        self
    }

    pub(crate) fn image(mut self, image: GuestImage) -> Self {
        self.image = image;
        self
    }

    /// Makes the runtime, and removes what dead processes have left in its
    /// state directory.
    ///
    /// # Errors
    /// `InvalidConfig` for paths that are not absolute, or without a
    /// hypervisor; `Denied` for a state directory that others can write to; and
    /// when it cannot be read.
    pub fn build(self) -> Result<Runtime> {
        let context = Context::new("build runtime", self.state_dir.display().to_string());
        let shared = self.shared(&context)?;
        let swept = shared.state.sweep();
        let swept = swept.map_err(|error| journal_error(&context, error))?;
        // What it could not remove is still there when it is asked for.
        *lock(&shared.swept) = swept.removed;
        Ok(Runtime { shared })
    }

    /// Makes what a runtime's sandboxes share, and touches nothing on the host.
    pub(crate) fn shared(self, context: &Context) -> Result<Arc<Shared>> {
        let backends = self.backends.or_default();
        backends.check(None, context)?;
        let mut paths = match &self.image {
            GuestImage::Directory(directory) => vec![("the guest image", directory)],
            GuestImage::Files { kernel, initramfs } => {
                vec![("the kernel", kernel), ("the initramfs", initramfs)]
            }
        };
        paths.push(("the state directory", &self.state_dir));
        if let Some(supervisor) = &self.supervisor {
            paths.push(("the supervisor", supervisor.path()));
        }
        for (what, path) in paths {
            if !path.is_absolute() {
                let reason = format!("{what} is {}, which is not absolute", path.display());
                return Err(context.invalid(reason));
            }
        }
        Ok(Arc::new(Shared {
            backends,
            state: StateDir::new(self.state_dir, self.steps),
            image: self.image,
            images: VerifiedImages::default(),
            network: self.network,
            events: EventHub::default(),
            registry: Registry::default(),
            supervisor: self.supervisor,
            swept: std::sync::Mutex::default(),
        }))
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|error| error.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_are_refused_and_named() {
        let state = tempfile::tempdir().unwrap();
        let error = Runtime::builder().state_dir("state").build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(
            error.to_string().contains("the state directory is state"),
            "{error}"
        );
        let builder = || Runtime::builder().state_dir(state.path());
        let error = builder().guest_image("image").build().unwrap_err();
        assert!(
            error.to_string().contains("the guest image is image"),
            "{error}"
        );
        let error = builder().guest_files("/k", "i").build().unwrap_err();
        assert!(error.to_string().contains("the initramfs is i"), "{error}");
    }

    #[tokio::test]
    async fn a_new_runtime_has_no_sandboxes() {
        let state = tempfile::tempdir().unwrap();
        let runtime = Runtime::builder().state_dir(state.path()).build().unwrap();
        assert!(runtime.list().await.unwrap().is_empty());
        assert_eq!(runtime.get("x").unwrap_err().kind(), ErrorKind::NotFound);
        let error = runtime.attach("x").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
