//! What a container is made of.

mod bundle;
mod capabilities;
mod check;
mod host;
mod mount;
mod paths;
mod resources;
mod rootfs;
mod sharing;
mod user;

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use oci_spec::runtime as oci;

use crate::error::Result;
use crate::stdio::StdioMode;

pub use mount::Mount;
pub use rootfs::Rootfs;
pub(crate) use rootfs::disk_id;
pub use sharing::Namespace;

pub(crate) use capabilities::set as set_capabilities;
pub(crate) use check::{check, check_process};
pub(crate) use host::OnHost;
pub(crate) use paths::{check_log, check_paths};
pub(crate) use sharing::Sharing;
pub(crate) use user::GuestUser;

/// The specification of a container that says nothing else. See
/// [`ContainerSpec::new`].
const DEFAULT: &str = include_str!("default.json");

/// What a container is made of: a root file system, and an OCI runtime
/// specification.
///
/// ```
/// use kata_sandbox::{ContainerSpec, MemorySize, Mount, Rootfs, StdioMode};
///
/// let spec = ContainerSpec::new(Rootfs::Dir("/srv/alpine".into()))
///     .command(["/bin/sh", "-c", "sort /data/words"])
///     .env("LC_ALL", "C")
///     .cwd("/data")
///     .user("1000:1000")
///     .mount(Mount::share("/srv/words", "/data").read_only())
///     .memory(MemorySize::mib(64))
///     .pids(32)
///     .read_only_root()
///     .stdio(StdioMode::Piped);
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub(crate) spec: oci::Spec,
    pub(crate) rootfs: Rootfs,
    /// Where relative paths of the specification begin.
    pub(crate) bundle: Option<PathBuf>,
    pub(crate) user: Option<GuestUser>,
    pub(crate) stdio: StdioMode,
    pub(crate) on_host: OnHost,
    pub(crate) sharing: Sharing,
}

impl ContainerSpec {
    /// A container with this root file system that runs `/bin/sh`, and is
    /// otherwise like what Docker makes by default:
    ///
    /// * namespaces of its own for processes, IPC, host name, mounts and
    ///   cgroups; the network is the sandbox's, shared by its containers;
    /// * `/proc`, `/dev` (with `pts`, `shm`, `mqueue`), read-only `/sys` and
    ///   `/sys/fs/cgroup`, and the usual paths masked or read-only;
    /// * user 0 with Docker's fourteen capabilities;
    /// * no seccomp filter: the virtual machine is the boundary. Give one with
    ///   [`ContainerSpec::edit_oci`], and the guest enforces it;
    /// * standard streams on `/dev/null`, see [`ContainerSpec::stdio`].
    #[must_use]
    pub fn new(rootfs: Rootfs) -> Self {
        let spec = serde_json::from_str(DEFAULT).expect("the default is a specification (tested)");
        Self {
            spec,
            rootfs,
            bundle: None,
            user: None,
            stdio: StdioMode::Null,
            on_host: OnHost::default(),
            sharing: Sharing::default(),
        }
    }

    /// A container as an OCI bundle describes it: `config.json` in the
    /// directory, and the root file system that it names.
    ///
    /// # Errors
    /// `NotFound` without a `config.json`; `InvalidConfig` where it breaks the
    /// schema, with the path of the value, line and column; and where the root
    /// file system is not there.
    pub fn from_bundle(bundle: impl AsRef<Path>) -> Result<Self> {
        bundle::load(bundle.as_ref())
    }

    /// A container of a specification and a root file system. Relative paths
    /// of mounts begin at `bundle`.
    #[must_use]
    pub fn from_oci(bundle: impl Into<PathBuf>, spec: oci::Spec, rootfs: Rootfs) -> Self {
        let bundle = Some(bundle.into());
        Self {
            spec,
            rootfs,
            bundle,
            user: None,
            stdio: StdioMode::Null,
            on_host: OnHost::default(),
            sharing: Sharing::default(),
        }
    }

    /// The program and its arguments.
    #[must_use]
    pub fn command<I, S>(mut self, command: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        let args = command.into_iter().map(Into::into).collect();
        self.process().set_args(Some(args));
        self
    }

    /// Further arguments of the program.
    #[must_use]
    pub fn args<I, S>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        add_args(self.process(), args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        set_env(self.process(), name, value);
        self
    }

    /// The working directory, absolute, in the container.
    #[must_use]
    pub fn cwd(mut self, directory: impl Into<PathBuf>) -> Self {
        self.process().set_cwd(directory.into());
        self
    }

    /// Who runs the program: `user`, `user:group`, each a number or a name from
    /// the container's `/etc/passwd` and `/etc/group`.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        let user = GuestUser::parse(user);
        user.apply(self.process());
        self.user = Some(user);
        self
    }

    /// The host name in the container; by default the sandbox's.
    #[must_use]
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.spec.set_hostname(Some(name.into()));
        self
    }

    /// Adds a mount, on top of those before it.
    #[must_use]
    pub fn mount(mut self, mount: Mount) -> Self {
        self.spec
            .mounts_mut()
            .get_or_insert_default()
            .push(mount.into_oci());
        self
    }

    /// Makes the root file system read-only in the container, and on the host
    /// for what the guest could try.
    #[must_use]
    pub fn read_only_root(mut self) -> Self {
        self.spec
            .root_mut()
            .get_or_insert_default()
            .set_readonly(Some(true));
        self
    }

    /// The capabilities that the program has, instead of the default ones.
    #[must_use]
    pub fn capabilities(mut self, set: impl IntoIterator<Item = oci::Capability>) -> Self {
        set_capabilities(self.process(), set);
        self
    }

    /// Keeps the program from gaining privileges, as through setuid programs.
    #[must_use]
    pub fn no_new_privileges(mut self) -> Self {
        self.process().set_no_new_privileges(Some(true));
        self
    }

    /// The annotation `key`.
    #[must_use]
    pub fn annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let annotations = self.spec.annotations_mut().get_or_insert_default();
        annotations.insert(key.into(), value.into());
        self
    }

    /// What becomes of the program's standard streams. By default, nothing.
    #[must_use]
    pub fn stdio(mut self, mode: StdioMode) -> Self {
        self.stdio = mode;
        self
    }

    /// Changes the OCI specification itself, for all that has no method here.
    #[must_use]
    pub fn edit_oci(mut self, edit: impl FnOnce(&mut oci::Spec)) -> Self {
        edit(&mut self.spec);
        self
    }

    /// The OCI specification as it stands.
    #[must_use]
    pub fn oci(&self) -> &oci::Spec {
        &self.spec
    }

    pub(crate) fn process(&mut self) -> &mut oci::Process {
        self.spec.process_mut().get_or_insert_default()
    }

    pub(crate) fn linux(&mut self) -> &mut oci::Linux {
        self.spec.linux_mut().get_or_insert_default()
    }
}

/// Adds arguments to those that there are.
pub(crate) fn add_args<I, S>(process: &mut oci::Process, args: I)
where
    I: IntoIterator<Item = S>,
    S: Into<String>,
{
    let mut all = process.args().clone().unwrap_or_default();
    all.extend(args.into_iter().map(Into::into));
    process.set_args(Some(all));
}

/// Sets or replaces an environment variable.
pub(crate) fn set_env(process: &mut oci::Process, name: &str, value: &str) {
    let env = process.env_mut().get_or_insert_default();
    env.retain(|entry| entry.split_once('=').map_or(entry.as_str(), |(key, _)| key) != name);
    env.push(format!("{name}={value}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemorySize;

    #[test]
    fn the_default_is_a_specification_that_passes_the_checks() {
        let spec = ContainerSpec::new(Rootfs::Dir("/".into()));
        check(&spec, &crate::error::Context::new("create container", "c")).unwrap();
        let bounding = spec
            .oci()
            .process()
            .as_ref()
            .unwrap()
            .capabilities()
            .as_ref()
            .unwrap();
        assert_eq!(bounding.bounding().as_ref().unwrap().len(), 14);
    }

    #[test]
    fn each_method_changes_what_it_says() {
        let spec = ContainerSpec::new(Rootfs::Dir("/".into()))
            .command(["/bin/echo"])
            .args(["a", "b"])
            .env("PATH", "/bin")
            .env("A", "1")
            .cwd("/tmp")
            .user("1000:50")
            .hostname("here")
            .read_only_root()
            .memory(MemorySize::mib(64))
            .cpus(1.5)
            .pids(10)
            .capabilities([oci::Capability::Kill])
            .no_new_privileges()
            .annotation("k", "v")
            .edit_oci(|spec| {
                spec.set_domainname(Some("example".into()));
            });
        let oci = spec.oci();
        let process = oci.process().as_ref().unwrap();
        assert_eq!(process.args().as_ref().unwrap(), &["/bin/echo", "a", "b"]);
        assert_eq!(process.env().as_ref().unwrap(), &["PATH=/bin", "A=1"]);
        assert_eq!(process.cwd(), Path::new("/tmp"));
        assert_eq!((process.user().uid(), process.user().gid()), (1000, 50));
        assert_eq!(process.no_new_privileges(), Some(true));
        let capabilities = process.capabilities().as_ref().unwrap();
        assert_eq!(capabilities.effective().as_ref().unwrap().len(), 1);
        let resources = oci.linux().as_ref().unwrap().resources().as_ref().unwrap();
        assert_eq!(resources.memory().as_ref().unwrap().limit(), Some(64 << 20));
        assert_eq!(resources.pids().as_ref().unwrap().limit(), 10);
        let cpu = resources.cpu().as_ref().unwrap();
        assert_eq!((cpu.quota(), cpu.period()), (Some(150_000), Some(100_000)));
        assert_eq!(oci.root().as_ref().unwrap().readonly(), Some(true));
        assert_eq!(oci.hostname().as_deref(), Some("here"));
        assert_eq!(oci.domainname().as_deref(), Some("example"));
        assert_eq!(oci.annotations().as_ref().unwrap()["k"], "v");
    }
}
