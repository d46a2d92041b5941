//! A process in the guest, and how it ended.

use kata_protocol::agent::{WaitProcessRequest, WaitProcessResponse};
use kata_protocol::ttrpc::CallError;

use super::{ContainerRecord, Engine};
use crate::exit::Exit;
pub(crate) use crate::home::ProcessFace as ProcessRecord;

/// Waits in the guest for the process to end: the one call that may, since the
/// agent tells once and forgets.
pub(super) async fn collect(
    engine: &Engine,
    container: &ContainerRecord,
    process: &ProcessRecord,
) -> Exit {
    let request = WaitProcessRequest {
        container_id: container.id().to_owned(),
        exec_id: process.exec_id().to_owned(),
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
}
