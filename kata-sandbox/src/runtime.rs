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
use crate::image::{GuestImage, VerifiedImages};
use crate::journal::StateDir;
use crate::recover::{self, Recovered};
use crate::registry::Registry;
use crate::sandbox::{Sandbox, SandboxStatus};

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

    /// A sandbox of this runtime that has been started.
    ///
    /// # Errors
    /// `NotFound` when there is none of that id.
    pub fn get(&self, id: &str) -> Result<Sandbox> {
        let keeper = self.shared.registry.get(id).ok_or_else(|| {
            let context = Context::new("find sandbox", crate::id::shown(id));
            context.error(
                ErrorKind::NotFound,
                "this runtime has no sandbox of that id",
            )
        })?;
        Ok(Sandbox::new(keeper))
    }

    /// The sandboxes of this runtime that have been started and not deleted.
    #[must_use]
    pub fn list(&self) -> Vec<SandboxStatus> {
        let sandboxes = self.shared.registry.all();
        sandboxes
            .into_iter()
            .map(|keeper| Sandbox::new(keeper).status())
            .collect()
    }

    /// Events of all sandboxes, from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        self.shared.events.listen(None)
    }

    /// Takes stock after a crash: the sandboxes of this runtime, and what was
    /// cleaned up of those whose processes have died.
    ///
    /// # Errors
    /// When the state directory cannot be read. What could not be cleaned up is
    /// no error, but told in [`Recovered::Gone`].
    pub async fn recover(&self) -> Result<Vec<Recovered>> {
        recover::recover(self, &self.shared).await
    }

    /// What was removed when the runtime was built; told once.
    pub(crate) fn take_swept(&self) -> Vec<String> {
        let mut swept = self
            .shared
            .swept
            .lock()
            .unwrap_or_else(|error| error.into_inner());
        std::mem::take(&mut swept)
    }
}

impl RuntimeBuilder {
    /// Adds a hypervisor. Of several, a sandbox takes the best that works on
    /// this host, unless it names one; of equals, the first that was added.
    /// With none added, there is QEMU (feature `qemu`).
    #[must_use]
    pub fn hypervisor(mut self, hypervisor: impl Hypervisor) -> Self {
        self.backends.add(hypervisor);
        self
    }

    /// The directory in which sandboxes have their state, by default
    /// `/run/kata-sandbox`; without root, such as `/run/user/1000/kata`. It is
    /// made where missing. Short: sockets are below it. Several runtimes, in
    /// several processes, may share it.
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

    /// Makes the runtime, and removes what dead processes have left in its
    /// state directory.
    ///
    /// # Errors
    /// `InvalidConfig` for paths that are not absolute, or without a
    /// hypervisor; and when the state directory cannot be read.
    pub fn build(self) -> Result<Runtime> {
        let context = Context::new("build runtime", self.state_dir.display().to_string());
        let backends = self.backends.or_default();
        backends.check(None, &context)?;
        let image = match &self.image {
            GuestImage::Directory(directory) => vec![("the guest image", directory)],
            GuestImage::Files { kernel, initramfs } => {
                vec![("the kernel", kernel), ("the initramfs", initramfs)]
            }
        };
        for (what, path) in image
            .into_iter()
            .chain([("the state directory", &self.state_dir)])
        {
            if !path.is_absolute() {
                let reason = format!("{what} is {}, which is not absolute", path.display());
                return Err(context.invalid(reason));
            }
        }
        let state = StateDir::new(self.state_dir);
        let swept = state
            .sweep()
            .map_err(|error| journal_error(&context, error))?;
        Ok(Runtime {
            shared: Arc::new(Shared {
                backends,
                state,
                image: self.image,
                images: VerifiedImages::default(),
                network: self.network,
                events: EventHub::default(),
                registry: Registry::default(),
                swept: swept.into(),
            }),
        })
    }
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

    #[test]
    fn a_new_runtime_has_no_sandboxes() {
        let state = tempfile::tempdir().unwrap();
        let runtime = Runtime::builder().state_dir(state.path()).build().unwrap();
        assert!(runtime.list().is_empty());
        assert_eq!(runtime.get("x").unwrap_err().kind(), ErrorKind::NotFound);
    }
}
