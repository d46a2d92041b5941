//! Processes: copies of the agent that become something else.
//!
//! The agent has one thread, so a copy of it ([`clone_self`]) is a whole
//! program: it may allocate, read files and block, and none of that delays the
//! agent. It reports over a [`Control`] socket, and becomes the container's
//! program by [`Program::execute`]. There is no intermediate process and no thread.
//!
//! ```text
//! agent ── clone_self ──> copy: set up, report "ready", wait for "go"
//!   │  <── Control ───────┘         │
//!   └─ reaper: SIGCHLD -> Exit      └─> apply identity, execve
//! ```
//!
//! Where a container's processes might look into a copy that is still the
//! agent's, the copy does all that needs privilege out of their sight, and a
//! process without it goes on where they are ([`CopyControl::succeed`]).

mod become_user;
mod capability;
mod clone;
mod control;
mod events;
mod failure;
mod home;
mod in_child;
mod orphans;
mod program;
mod reaper;
mod schedule;
mod signal;
mod user;

pub(crate) use become_user::Privileges;
pub(crate) use clone::{Copy, clone_self, detach_from_agent, is_copy, reset_signals, unshare};
pub(crate) use control::{Control, CopyControl, Legacy, control_pair};
pub(crate) use events::awaitable;
pub(crate) use failure::{Context, Field, refuse};
pub(crate) use home::Home;
pub(crate) use in_child::{Task, in_child};
pub(crate) use orphans::wait_for_orphans;
pub(crate) use program::Program;
pub(crate) use reaper::{Child, Exit, watch};
pub(crate) use schedule::{Affinity, Scheduling};
pub(crate) use signal::signal;
pub(crate) use user::{Account, Wanted};
