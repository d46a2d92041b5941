//! What goes over a supervisor's socket.
//!
//! The client speaks first: a [`Greeting`], which asks a fresh supervisor to
//! begin. The answer is a [`Reception`]. Whoever had a sandbox started says that
//! it has it ([`Call::Taken`]). After that, client and supervisor send [`Call`]s
//! and [`Word`]s in any order.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backends::Knowledge;
use crate::engine::Blueprint;
use crate::error::Fault;
use crate::event::Event;
use crate::exit::{Exit, SandboxExit};
use crate::home::{ContainerFace, ContainerKey, Facts, Request};
use crate::image::{Fingerprints, GuestImage};
use crate::state::{ContainerState, SandboxState};

/// The version of the protocol that this program speaks.
pub(super) const VERSION: u32 = 1;
/// The oldest that it still understands.
pub(super) const OLDEST: u32 = 1;

/// The first word of a client.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Greeting {
    /// What the client speaks. This field has its place in every version.
    pub(super) protocol: u32,
    /// Whatever else the version says.
    #[serde(flatten)]
    pub(super) rest: Value,
}

/// What a greeting of version 1 says.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Purpose {
    /// The sandbox to start; a client that attaches has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) begin: Option<Box<Begin>>,
}

/// The sandbox that a fresh supervisor is to start.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Begin {
    pub(super) state_dir: PathBuf,
    pub(super) image: GuestImage,
    /// By which an image that was verified is known.
    pub(super) verified: Option<Fingerprints>,
    /// What its hypervisors need not find out again.
    #[serde(default)]
    pub(super) knowledge: Knowledge,
    pub(super) blueprint: Blueprint,
    /// The network, as it describes itself.
    pub(super) network: Option<Value>,
    /// Its name, for a supervisor that has one of its own.
    pub(super) network_name: String,
    /// Whether the client says when it has taken the sandbox. One that goes
    /// before it has said so does not know of it, and nor does anybody else.
    #[serde(default)]
    pub(super) takes: bool,
}

/// The answer to a greeting.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reception {
    Welcome(Box<Welcome>),
    /// This version says so in every version.
    Refused {
        /// The newest version that the supervisor speaks.
        protocol: u32,
        fault: Fault,
    },
}

/// What a client needs to know at first.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Welcome {
    pub(super) protocol: u32,
    pub(super) facts: Facts,
    pub(super) call_timeout: Duration,
    pub(super) now: Snapshot,
    pub(super) verified: Option<Fingerprints>,
    /// What its hypervisors have found out.
    #[serde(default)]
    pub(super) knowledge: Knowledge,
    /// Whether the supervisor waits to hear that the sandbox was taken.
    #[serde(default)]
    pub(super) to_be_taken: bool,
}

/// What changes, as it is now.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Snapshot {
    pub(super) state: SandboxState,
    pub(super) exit: Option<SandboxExit>,
    pub(super) containers: Vec<Description>,
}

/// A container, as it is now.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(super) key: ContainerKey,
    pub(super) created: SystemTime,
    pub(super) process: oci::Process,
    pub(super) terminal: bool,
    pub(super) state: ContainerState,
    pub(super) pid: Option<u32>,
    pub(super) exit: Option<Exit>,
}

impl Description {
    pub(crate) fn of(face: &Arc<ContainerFace>) -> Self {
        // The state first: an exit is noted before the state that it leads to.
        let state = face.state();
        Self {
            key: face.key.clone(),
            created: face.created,
            process: face.process.clone(),
            terminal: face.init.terminal,
            state,
            pid: face.init.pid(),
            exit: face.init.exit(),
        }
    }
}

/// What a client says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Call {
    /// Something is to be done; answered with the same number.
    Ask { number: u64, request: Request },
    /// Nobody waits for that any more. It is answered all the same.
    Cancel { number: u64 },
    /// The sandbox that was asked for is known to who asked. Not answered.
    Taken,
}

/// What a supervisor says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// What a call has come to; its descriptors are the frame's.
    Answer {
        number: u64,
        answer: Result<Value, Fault>,
    },
    /// Something happened.
    Event {
        event: Event,
        /// The container that it happened to, as it is now.
        container: Option<Box<Description>>,
        /// How the sandbox ended, once it has.
        exit: Option<SandboxExit>,
    },
    /// A process that this client executed, or asked for, has ended.
    Ended {
        container: ContainerKey,
        exec_id: String,
        exit: Exit,
    },
    /// Events were lost on the way to a slow client: all as it is now.
    Lagged { missed: u64, now: Snapshot },
}
