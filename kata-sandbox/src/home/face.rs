//! What handles show without asking: kept by the engine where that is in this
//! process, and by what the supervisor tells where it is not.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use kata_hypervisor::Features;
use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::event::{Event, EventHub};
use crate::exit::{Exit, SandboxExit};
use crate::state::{ContainerState, SandboxState, SandboxStep};
use crate::timeline::Timeline;

/// What there is to know of a sandbox.
#[derive(Debug)]
pub(crate) struct SandboxFace {
    pub(crate) id: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) created: SystemTime,
    pub(crate) booted: Instant,
    pub(crate) timeline: Timeline,
    pub(crate) features: Features,
    pub(crate) events: EventHub,
    state: watch::Sender<SandboxState>,
    exit: watch::Sender<Option<SandboxExit>>,
}

/// What a new [`SandboxFace`] says and never changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) id: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) created: SystemTime,
    pub(crate) uptime: Duration,
    pub(crate) timeline: Timeline,
    pub(crate) features: Features,
}

impl SandboxFace {
    pub(crate) fn new(facts: Facts, state: SandboxState, events: EventHub) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            id: facts.id,
            labels: facts.labels,
            created: facts.created,
            booted: now.checked_sub(facts.uptime).unwrap_or(now),
            timeline: facts.timeline,
            features: facts.features,
            events,
            state: watch::Sender::new(state),
            exit: watch::Sender::new(None),
        })
    }

    /// What it says and never changes, for another process.
    pub(crate) fn facts(&self) -> Facts {
        Facts {
            id: self.id.clone(),
            labels: self.labels.clone(),
            created: self.created,
            uptime: self.booted.elapsed(),
            timeline: self.timeline.clone(),
            features: self.features,
        }
    }

    pub(crate) fn state(&self) -> SandboxState {
        *self.state.borrow()
    }

    pub(crate) fn exit(&self) -> Option<SandboxExit> {
        self.exit.borrow().clone()
    }

    /// Takes a step; answers whether it made sense. Listeners hear of it when
    /// it changed something.
    pub(crate) fn step(&self, step: SandboxStep) -> bool {
        let mut allowed = false;
        let changed = self
            .state
            .send_if_modified(|state| match state.after(step) {
                Some(next) => {
                    allowed = true;
                    std::mem::replace(state, next) != next
                }
                None => false,
            });
        if changed {
            self.events.send(&Event::SandboxState {
                sandbox: self.id.clone(),
                state: self.state(),
            });
        }
        allowed
    }

    /// Takes over the state that another process tells. One that has ended
    /// stays as it ended.
    pub(crate) fn mirror(&self, state: SandboxState, exit: Option<SandboxExit>) {
        if let Some(exit) = exit {
            self.note_exit(exit);
        }
        self.state.send_if_modified(|known| {
            !known.has_ended() && std::mem::replace(known, state) != state
        });
    }

    /// Waits until the sandbox has ended, and nothing of it is left.
    pub(crate) async fn ended(&self) -> SandboxExit {
        let mut state = self.state.subscribe();
        // The sender is in `self`: it cannot be gone.
        drop(state.wait_for(|state| state.has_ended()).await);
        self.exit().unwrap_or(SandboxExit::Stopped)
    }

    /// Notes how the sandbox ended; the first word counts.
    pub(crate) fn note_exit(&self, exit: SandboxExit) {
        self.exit.send_if_modified(|noted| {
            let first = noted.is_none();
            noted.get_or_insert(exit);
            first
        });
    }
}

/// By which a container is known: its id, and a number that no other container
/// of its sandbox has had, so that a late word about one never meets another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ContainerKey {
    pub(crate) id: String,
    pub(crate) number: u64,
}

/// What there is to know of a container.
#[derive(Debug)]
pub(crate) struct ContainerFace {
    pub(crate) key: ContainerKey,
    pub(crate) created: SystemTime,
    /// What processes executed in it begin with.
    pub(crate) process: oci::Process,
    pub(crate) init: Arc<ProcessFace>,
    pub(crate) state: watch::Sender<ContainerState>,
}

impl ContainerFace {
    /// One that is being made.
    pub(crate) fn new(
        key: ContainerKey,
        created: SystemTime,
        process: oci::Process,
        terminal: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            key,
            created,
            process,
            init: Arc::new(ProcessFace::new(String::new(), terminal)),
            state: watch::Sender::new(ContainerState::Creating),
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.key.id
    }

    pub(crate) fn state(&self) -> ContainerState {
        *self.state.borrow()
    }

    /// Waits until its first process has ended; `None` when the container went
    /// before that was started.
    pub(crate) async fn exited(&self) -> Option<Exit> {
        let mut state = self.state.subscribe();
        tokio::select! {
            biased;
            exit = self.init.exited() => Some(exit),
            // An exit is noted before the state that it leads to.
            _ = state.wait_for(|state| *state == ContainerState::Stopped) => self.init.exit(),
        }
    }
}

/// What there is to know of a process: a container's first, or one executed in
/// it.
#[derive(Debug)]
pub(crate) struct ProcessFace {
    /// Empty for a container's first process.
    exec_id: String,
    pid: OnceLock<u32>,
    exit: watch::Sender<Option<Exit>>,
    pub(crate) terminal: bool,
}

impl ProcessFace {
    pub(crate) fn new(exec_id: String, terminal: bool) -> Self {
        Self {
            exec_id,
            pid: OnceLock::new(),
            exit: watch::Sender::new(None),
            terminal,
        }
    }

    pub(crate) fn exec_id(&self) -> &str {
        &self.exec_id
    }

    /// Its id in the guest; a foreign agent does not say.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.pid.get().copied()
    }

    pub(crate) fn note_pid(&self, pid: u32) {
        if pid != 0 {
            self.pid.get_or_init(|| pid);
        }
    }

    /// How it ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Waits until it has ended.
    pub(crate) async fn exited(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(Exit::Lost),
            Err(_) => Exit::Lost,
        }
    }

    /// Notes how it ended; the first word counts. Answers whether this was it.
    pub(crate) fn note_exit(&self, exit: Exit) -> bool {
        self.exit.send_if_modified(|noted| {
            let first = noted.is_none();
            noted.get_or_insert(exit);
            first
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_exit_is_told_to_all_who_ask_before_and_after() {
        let process = ProcessFace::new(String::new(), false);
        let (early, ()) = tokio::join!(process.exited(), async {
            assert!(process.note_exit(Exit::Code(1)));
            assert!(!process.note_exit(Exit::Lost));
        });
        assert_eq!(early, Exit::Code(1));
        assert_eq!(process.exited().await, Exit::Code(1));
    }

    #[test]
    fn a_process_id_is_said_once() {
        let process = ProcessFace::new("e".into(), true);
        process.note_pid(0);
        assert_eq!(process.pid(), None);
        process.note_pid(7);
        process.note_pid(8);
        assert_eq!(process.pid(), Some(7));
    }

    #[tokio::test]
    async fn a_container_that_goes_before_its_start_ends_those_who_wait() {
        let key = ContainerKey {
            id: "c".into(),
            number: 1,
        };
        let now = SystemTime::UNIX_EPOCH;
        let face = ContainerFace::new(key, now, oci::Process::default(), false);
        let (exit, _) = tokio::join!(face.exited(), async {
            face.state.send_replace(ContainerState::Stopped)
        });
        assert_eq!(exit, None);
    }
}
