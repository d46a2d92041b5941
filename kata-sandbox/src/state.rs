//! States of sandboxes and containers, and the one function that changes each.
//!
//! ```text
//!   Starting ──booted──▶ Running ◀──resume── Paused
//!      │                  │  └──────pause────▶ │
//!      │                  └───────stop─────────┴──▶ Stopping ──ended──▶ Stopped
//!      └──stop, died ──▶ …                             │
//!   any of them but Stopped ───────died───────────▶ Lost
//! ```

use serde::{Deserialize, Serialize};
use std::fmt;

/// The state of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SandboxState {
    /// Its machine is being made and booted.
    Starting,
    /// It runs containers.
    Running,
    /// All its processors stand still.
    Paused,
    /// It is being stopped.
    Stopping,
    /// It was stopped; nothing of it is left on the host.
    Stopped,
    /// It ended by itself; nothing of it is left on the host.
    Lost,
    /// Its supervisor does not answer, or only programs of another version.
    Unknown,
}

/// What happens to a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SandboxStep {
    Booted,
    Pause,
    Resume,
    Stop,
    Ended,
    Died,
}

impl SandboxState {
    /// The state after `step`, or `None` where the step makes no sense.
    pub(crate) fn after(self, step: SandboxStep) -> Option<Self> {
        use SandboxState::{Lost, Paused, Running, Starting, Stopped, Stopping};
        match (self, step) {
            (Starting, SandboxStep::Booted) => Some(Running),
            (Running | Paused, SandboxStep::Pause) => Some(Paused),
            (Running | Paused, SandboxStep::Resume) => Some(Running),
            (Starting | Running | Paused, SandboxStep::Stop) => Some(Stopping),
            (Stopping, SandboxStep::Ended) => Some(Stopped),
            (Starting | Running | Paused, SandboxStep::Died) => Some(Lost),
            _ => None,
        }
    }

    /// Whether it has ended for good.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Stopped | Self::Lost)
    }
}

impl fmt::Display for SandboxState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
        })
    }
}

/// The state of a container, as the OCI runtime specification names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ContainerState {
    /// Its environment is being made.
    Creating,
    /// Its program has not been started yet.
    Created,
    /// Its program runs.
    Running,
    /// Its processes stand still.
    Paused,
    /// Its program has ended.
    Stopped,
}

/// What happens to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContainerStep {
    Created,
    Start,
    Pause,
    Resume,
    /// Resumed before its program was started.
    ResumeUnstarted,
    Exited,
}

impl ContainerState {
    /// The state after `step`, or `None` where the step makes no sense.
    pub(crate) fn after(self, step: ContainerStep) -> Option<Self> {
        use ContainerState::{Created, Creating, Paused, Running, Stopped};
        match (self, step) {
            (Creating, ContainerStep::Created) => Some(Created),
            (Created, ContainerStep::Start) => Some(Running),
            (Created | Running | Paused, ContainerStep::Pause) => Some(Paused),
            (Running | Paused, ContainerStep::Resume) => Some(Running),
            (Created | Paused, ContainerStep::ResumeUnstarted) => Some(Created),
            (Created | Running | Paused, ContainerStep::Exited) => Some(Stopped),
            _ => None,
        }
    }
}

impl fmt::Display for ContainerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_of_a_sandbox_from_every_state() {
        use SandboxState::{Lost, Paused, Running, Starting, Stopped, Stopping};
        let steps = [
            SandboxStep::Booted,
            SandboxStep::Pause,
            SandboxStep::Resume,
            SandboxStep::Stop,
            SandboxStep::Ended,
            SandboxStep::Died,
        ];
        let table = [
            (
                Starting,
                [Some(Running), None, None, Some(Stopping), None, Some(Lost)],
            ),
            (
                Running,
                [
                    None,
                    Some(Paused),
                    Some(Running),
                    Some(Stopping),
                    None,
                    Some(Lost),
                ],
            ),
            (
                Paused,
                [
                    None,
                    Some(Paused),
                    Some(Running),
                    Some(Stopping),
                    None,
                    Some(Lost),
                ],
            ),
            (Stopping, [None, None, None, None, Some(Stopped), None]),
            (Stopped, [None; 6]),
            (Lost, [None; 6]),
        ];
        for (state, row) in table {
            assert_eq!(steps.map(|step| state.after(step)), row, "{state}");
            assert_eq!(state.has_ended(), row == [None; 6], "{state}");
        }
    }

    #[test]
    fn every_step_of_a_container_from_every_state() {
        use ContainerState::{Created, Creating, Paused, Running, Stopped};
        let steps = [
            ContainerStep::Created,
            ContainerStep::Start,
            ContainerStep::Pause,
            ContainerStep::Resume,
            ContainerStep::ResumeUnstarted,
            ContainerStep::Exited,
        ];
        let table = [
            (Creating, [Some(Created), None, None, None, None, None]),
            (
                Created,
                [
                    None,
                    Some(Running),
                    Some(Paused),
                    None,
                    Some(Created),
                    Some(Stopped),
                ],
            ),
            (
                Running,
                [None, None, Some(Paused), Some(Running), None, Some(Stopped)],
            ),
            (
                Paused,
                [
                    None,
                    None,
                    Some(Paused),
                    Some(Running),
                    Some(Created),
                    Some(Stopped),
                ],
            ),
            (Stopped, [None; 6]),
        ];
        for (state, row) in table {
            assert_eq!(steps.map(|step| state.after(step)), row, "{state}");
        }
    }
}
