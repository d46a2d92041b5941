//! Sandboxes that outlive the program that started them.
//!
//! A sandbox that is started with [`OnDrop::Detach`](crate::OnDrop::Detach) has
//! its engine in a process of its own, a supervisor, which goes on when the
//! program ends, and which the same or another program
//! [attaches](crate::Runtime::attach) to. The same code runs in it, and the
//! same handles reach it:
//!
//! ```text
//!   the program                              its supervisor, one per sandbox
//!  ┌───────────────────────┐  unix socket   ┌────────────────────────────────┐
//!  │ Sandbox, Container,   │ requests, news │ engine ── QEMU, a child of it  │
//!  │ Process … ── client ──┼────────────────┼─▶ exit statuses, logs          │
//!  │       ▲               │                │                                │
//!  │       └─ streams ◀────┼── descriptors ─┼── the guest's own sockets      │
//!  └───────────────────────┘                └────────────────────────────────┘
//! ```
//!
//! The supervisor is a program that calls [`serve`]: the embedder's own, which
//! is started again with arguments of its choice, or the shipped
//! `kata-supervisor`.
//!
//! ```no_run
//! use kata_sandbox::supervisor::{self, Supervisor};
//! use kata_sandbox::{OnDrop, Runtime};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! if std::env::args().nth(1).as_deref() == Some("supervise") {
//!     return Ok(supervisor::serve(|runtime| runtime)?);
//! }
//! let runtime = Runtime::builder()
//!     .supervisor(Supervisor::this_program(["supervise"]))
//!     .build()?;
//! let sandbox = runtime.sandbox("web").on_drop(OnDrop::Detach).start().await?;
//! let id = sandbox.detach()?;
//! // Later, in this program or another one:
//! let sandbox = runtime.attach(&id).await?;
//! sandbox.delete().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # The process
//!
//! It is in a session of its own, with `/` as its directory, an empty
//! environment, and no descriptor of the program that started it. It stays in
//! that program's cgroup, and has its user, limits and oom score. It ends when
//! its sandbox was deleted, or was stopped and its last client has gone. A
//! sandbox that has ended by itself keeps its supervisor until it is stopped or
//! deleted, so that its exit statuses can be asked for. When a supervisor is
//! killed, its virtual machine dies with it, and
//! [`Runtime::recover`](crate::Runtime::recover), or the next start of the same
//! id, removes what is left.
//!
//! # Who may talk to it
//!
//! Its socket is in the sandbox's state directory, which only its owner can
//! enter, and is for its owner alone (0600). Whoever connects must be the same
//! user, or root, as the kernel says (`SO_PEERCRED`). The protocol has a
//! version, and another one is refused by name.

mod calls;
mod client;
mod connect;
mod frame;
mod launch;
mod message;
mod mirror;
mod network;
mod serve;
mod session;
mod socket;
mod spawn;

use std::ffi::OsString;
use std::path::PathBuf;

pub(crate) use client::Client;
pub(crate) use connect::{Found, attach, look};
pub(crate) use launch::{launch, program};
pub(crate) use message::Description;
pub(crate) use mirror::Mirror;
pub use serve::serve;
pub(crate) use socket::NAME as CONTROL_SOCKET;

/// The program that is started as a supervisor: one that calls [`serve`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supervisor {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    log: Option<PathBuf>,
}

impl Supervisor {
    /// The calling program itself (`/proc/self/exe`), started with these
    /// arguments, by which its `main` knows to call [`serve`].
    #[must_use]
    pub fn this_program<I, S>(arguments: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        let mut supervisor = Self::program("/proc/self/exe");
        supervisor.arguments = arguments.into_iter().map(Into::into).collect();
        supervisor
    }

    /// A program that does nothing else, such as the `kata-supervisor` that
    /// comes with this crate. The path is absolute.
    #[must_use]
    pub fn program(path: impl Into<PathBuf>) -> Self {
        Self {
            program: path.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            log: None,
        }
    }

    /// An environment variable for the program; without any it has none.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    pub(crate) fn path(&self) -> &PathBuf {
        &self.program
    }

    /// The file that the program's standard error is appended to, by default
    /// `/dev/null`.
    #[must_use]
    pub fn log(mut self, path: impl Into<PathBuf>) -> Self {
        self.log = Some(path.into());
        self
    }
}
