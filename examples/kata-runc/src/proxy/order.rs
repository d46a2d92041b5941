//! What a command tells its proxy, and what the proxy answers: a line of JSON
//! each, on the socket between them.

use std::path::PathBuf;

use kata_sandbox::oci;
use serde::{Deserialize, Serialize};

use crate::cli::Globals;

/// What a command says to its proxy.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Said {
    /// Enter a network namespace. It is answered, and an order follows.
    Network(Netns),
    /// Make a process.
    Order(Box<Order>),
}

/// The network namespace of a container on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Netns {
    /// A new one.
    Own,
    /// That of a path.
    Join(PathBuf),
}

/// What a proxy is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) globals: Globals,
    /// The sandbox, by the library's id.
    pub(crate) sandbox: String,
    /// The container, by its id in the sandbox.
    pub(crate) container: String,
    /// Whether its streams are a terminal.
    pub(crate) terminal: bool,
    pub(crate) task: Task,
}

/// The process that the proxy stands for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Task {
    /// The first process of a container that the proxy makes.
    Create {
        bundle: PathBuf,
        rootfs: PathBuf,
        spec: Box<oci::Spec>,
        /// Whether the root cannot be pivoted, as that of an initramfs.
        no_pivot: bool,
        /// The container, by its id in the sandbox, whose pid namespace it joins.
        shares_pid_with: Option<String>,
    },
    /// A further process in a container that runs.
    Exec { process: Box<oci::Process> },
}

/// What a proxy answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// The process is there; it has the streams.
    Ready,
    /// It is not, and nothing of it is left.
    Failed { message: String },
}

/// What a command says last: from now on the proxy is on its own. A proxy that
/// is not told undoes what it did.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Settled {}
