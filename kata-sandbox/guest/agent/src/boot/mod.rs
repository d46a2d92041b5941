//! Starting as the machine's first process.
//!
//! ```text
//! early     a root that containers can leave, /proc, the kernel command line,
//!           modules of the image
//!           (here the agent listens, and dials the host)
//! complete  the other file systems, cgroups, limits
//! ```
//!
//! What the announcement does not need is done after it is on its way, while
//! the host reads it; the loopback interface, the slowest single step, after
//! the sandbox is made and before its first container is. Nothing here is done by an agent that another init
//! started.

mod cgroups;
mod modules;
mod mounts;
pub(crate) mod power;

use std::io;
use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, setrlimit};

pub(crate) use modules::load_by_name as load_module_by_name;

/// Open files that the agent, and a container that asks for no limit, may have.
const OPEN_FILES: u64 = 1 << 20;

/// Why the machine cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// A file system could not be mounted.
    #[error("cannot mount {kind} on {target}")]
    Mount {
        kind: &'static str,
        target: &'static str,
        source: io::Error,
    },
    /// A file that the boot needs could not be used.
    #[error("cannot use {}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// A kernel module could not be loaded.
    #[error("cannot load the kernel module {}", path.display())]
    Module { path: PathBuf, source: io::Error },
    /// Another step failed.
    #[error("cannot {step}")]
    Step {
        step: &'static str,
        source: io::Error,
    },
}

/// What must be done before the host can be told anything. Gives the kernel
/// command line.
pub(crate) fn early() -> Result<String, BootError> {
    crate::container::make_root_pivotable().map_err(|source| BootError::Step {
        step: "make a root file system that containers can leave",
        source,
    })?;
    mounts::proc()?;
    let path = PathBuf::from("/proc/cmdline");
    let command_line =
        std::fs::read_to_string(&path).map_err(|source| BootError::File { path, source })?;
    modules::load_listed(&command_line)?;
    Ok(command_line)
}

/// The rest, before the first call is answered.
pub(crate) fn complete() -> Result<(), BootError> {
    let step = |step| move |source| BootError::Step { step, source };
    mounts::all()?;
    cgroups::delegate()?;
    let limit = Rlimit {
        current: Some(OPEN_FILES),
        maximum: Some(OPEN_FILES),
    };
    setrlimit(Resource::Nofile, limit)
        .map_err(|error| step("raise the limit of open files")(error.into()))
}
