//! A process in the guest, and how it ended.

use std::sync::OnceLock;

use kata_protocol::agent::{WaitProcessRequest, WaitProcessResponse};
use kata_protocol::ttrpc::CallError;
use tokio::sync::watch;

use super::{ContainerRecord, Engine};
use crate::exit::Exit;

/// A process: a container's first, or one executed in it.
#[derive(Debug)]
pub(crate) struct ProcessRecord {
    /// Empty for a container's first process.
    exec_id: String,
    pid: OnceLock<u32>,
    exit: watch::Sender<Option<Exit>>,
    pub(crate) terminal: bool,
}

impl ProcessRecord {
    pub(super) fn new(exec_id: String, terminal: bool) -> Self {
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

    pub(super) fn note_pid(&self, pid: u32) {
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
    pub(super) fn note_exit(&self, exit: Exit) -> bool {
        self.exit.send_if_modified(|noted| {
            let first = noted.is_none();
            noted.get_or_insert(exit);
            first
        })
    }
}

/// Waits in the guest for the process to end: the one call that may, since the
/// agent tells once and forgets.
pub(super) async fn collect(
    engine: &Engine,
    container: &ContainerRecord,
    process: &ProcessRecord,
) -> Exit {
    let request = WaitProcessRequest {
        container_id: container.id().to_owned(),
        exec_id: process.exec_id.clone(),
    };
    let waiting = engine.agent.calls().wait_process(&request, None);
    let answer = tokio::select! {
        biased;
        answer = waiting => answer,
        _ = engine.ended() => return Exit::Lost,
    };
    match answer {
        Ok(answer) => exit_of(&answer, container.ran_out_of_memory()),
        Err(error) => {
            if !matches!(error, CallError::Disconnected { .. }) {
                log::warn!(
                    sandbox_id = engine.id.as_str(), container_id = container.id(), error:%;
                    "exit status lost"
                );
            }
            Exit::Lost
        }
    }
}

/// The status of a shell for a process that was killed.
const KILLED: i32 = 128 + 9;

/// `oom`: whether the kernel was heard to kill in that container; a foreign
/// agent says no more.
fn exit_of(answer: &WaitProcessResponse, oom: bool) -> Exit {
    match i32::try_from(answer.signal) {
        _ if answer.oom => Exit::Oom,
        Ok(0) if oom && answer.status == KILLED => Exit::Oom,
        Ok(0) => Exit::Code(answer.status),
        Ok(signal) => Exit::Signal(signal),
        Err(_) => Exit::Lost, // no signal has such a number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_answer_is_told_as_code_signal_or_oom() {
        let answer = |status, signal, oom| WaitProcessResponse {
            status,
            signal,
            oom,
        };
        assert_eq!(exit_of(&answer(3, 0, false), false), Exit::Code(3));
        assert_eq!(exit_of(&answer(143, 15, false), false), Exit::Signal(15));
        assert_eq!(exit_of(&answer(137, 9, true), false), Exit::Oom);
        assert_eq!(exit_of(&answer(137, 0, false), true), Exit::Oom);
        assert_eq!(exit_of(&answer(137, 0, false), false), Exit::Code(137));
        assert_eq!(exit_of(&answer(1, 0, false), true), Exit::Code(1));
        assert_eq!(exit_of(&answer(0, u32::MAX, false), false), Exit::Lost);
    }

    #[tokio::test]
    async fn an_exit_is_told_to_all_who_ask_before_and_after() {
        let process = ProcessRecord::new(String::new(), false);
        let (early, ()) = tokio::join!(process.exited(), async {
            assert!(process.note_exit(Exit::Code(1)));
            assert!(!process.note_exit(Exit::Lost));
        });
        assert_eq!(early, Exit::Code(1));
        assert_eq!(process.exited().await, Exit::Code(1));
    }

    #[test]
    fn a_process_id_is_said_once() {
        let process = ProcessRecord::new("e".into(), true);
        process.note_pid(0);
        assert_eq!(process.pid(), None);
        process.note_pid(7);
        process.note_pid(8);
        assert_eq!(process.pid(), Some(7));
    }
}
