//! Containers: the OCI runtime specification, done without a runtime.
//!
//! [`Containers`] answers the agent's calls. A container is made by its own
//! first process ([`first_process`]), a copy of the agent born in the new
//! namespaces and in the container's control group; the agent only waits. So a
//! container whose mounts or hooks take long delays no other, and there is no
//! lock anywhere.
//!
//! | module | what |
//! |---|---|
//! | [`blueprint`] | the specification, checked |
//! | [`namespaces`], [`id_map`] | what is joined, what is new |
//! | [`rootfs`], [`mounts`], [`devices`], [`protect`] | the file systems |
//! | [`create`], [`exec`], [`remove`], [`processes`], [`calls`] | the calls |

mod blueprint;
mod calls;
#[expect(clippy::module_inception, reason = "a container is what this is about")]
mod container;
mod copy_up;
mod create;
mod devices;
mod exec;
mod first_process;
mod hooks;
mod id_map;
mod mount_options;
mod mounts;
mod namespaces;
mod processes;
mod protect;
mod remove;
mod rootfs;
mod sandbox;
mod state;
mod sysctl;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use kata_protocol::ttrpc::{Code, Status};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::cgroup::OomWatch;
use crate::files::Volumes;
use crate::process::refuse;
use crate::stdio::Streams;
use container::Container;
use namespaces::OwnNamespaces;
pub(crate) use rootfs::make_root_pivotable;
use sandbox::Sandbox;
pub(crate) use sandbox::SandboxSetup;

/// The longest id, so that it can name a file.
const ID_LIMIT: usize = 250;

/// How containers are run.
#[derive(Debug)]
pub(crate) struct Config {
    /// Where cgroup v2 is mounted.
    pub(crate) cgroup_root: PathBuf,
    /// Bytes in the pipe of a standard stream; the kernel's choice if `None`.
    pub(crate) pipe_size: Option<u32>,
    /// Streams that the host dialled.
    pub(crate) streams: Rc<Streams>,
}

/// All containers of the sandbox.
#[derive(Debug)]
pub(crate) struct Containers {
    config: Config,
    own: OwnNamespaces,
    sandbox: RefCell<Rc<Sandbox>>,
    /// `None` while it is being made.
    all: RefCell<HashMap<String, Option<Rc<Container>>>>,
    oom: Rc<OomWatch>,
    /// A container's process may look into others that it sees.
    tracers: Cell<bool>,
}

impl Containers {
    /// None yet. From here on every child of the agent is collected, so it must
    /// be called within a [`tokio::task::LocalSet`], and once.
    ///
    /// # Errors
    /// When the kernel lacks what following processes needs.
    pub(crate) fn new(config: Config) -> io::Result<Rc<Self>> {
        // It lasts as long as the agent.
        drop(crate::process::watch()?);
        Volumes::trust_what_is_mounted()?;
        // Nor do its copies show their memory, until they are other programs.
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        Ok(Rc::new(Self {
            config,
            own: OwnNamespaces::open()?,
            sandbox: RefCell::default(),
            all: RefCell::default(),
            oom: OomWatch::start()?,
            tracers: Cell::new(false),
        }))
    }

    /// Makes what containers are to share.
    ///
    /// # Errors
    /// When there are containers already, or the kernel refuses.
    pub(crate) async fn open_sandbox(&self, setup: &SandboxSetup) -> Result<(), Status> {
        if !self.all.borrow().is_empty() {
            let message = "the sandbox has containers already";
            return Err(Status::new(Code::FailedPrecondition, message));
        }
        let sandbox = Sandbox::open(setup).await?;
        *self.sandbox.borrow_mut() = Rc::new(sandbox);
        Ok(())
    }

    /// The id of the next container that ran out of memory.
    pub(crate) async fn next_oom(&self) -> String {
        self.oom.next().await
    }

    fn find(&self, id: &str) -> Result<Rc<Container>, Status> {
        match self.all.borrow().get(id) {
            Some(Some(container)) => Ok(Rc::clone(container)),
            Some(None) => {
                let message = format!("container {id:?} is still being created");
                Err(Status::new(Code::FailedPrecondition, message))
            }
            None => Err(Status::new(
                Code::NotFound,
                format!("there is no container {id:?}"),
            )),
        }
    }
}

/// That an id can name things.
fn check_id(id: &str) -> Result<(), Status> {
    let sound = |c: char| c.is_ascii_alphanumeric() || "_.-+".contains(c);
    if id.is_empty() || id.len() > ID_LIMIT || id.starts_with('.') || !id.chars().all(sound) {
        let shown: String = id.chars().take(64).collect();
        return Err(refuse(format!(
            "{shown:?} is no id: 1 to {ID_LIMIT} letters, digits and _ . - + that do not begin with a dot"
        )));
    }
    Ok(())
}
