//! Watching a sandbox for what happens by itself.

use std::sync::Arc;
use std::time::Duration;

use kata_hypervisor::{Result as VmResult, StopMode, VmExit};
use kata_protocol::agent::GetOomEventRequest;

use super::Engine;
use crate::event::Event;
use crate::exit::SandboxExit;
use crate::state::{SandboxState, SandboxStep};

/// How long a machine may take to end after its agent has.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Waits for machine or agent to go, and takes the sandbox away then.
pub(super) async fn watch(engine: Arc<Engine>) {
    let exit = tokio::select! {
        exit = engine.vm.wait() => machine_ended(&engine, exit),
        reason = engine.agent.closed() => {
            // A guest that panics loses both; the machine knows more.
            match tokio::time::timeout(LAST_WORDS, engine.vm.wait()).await {
                Ok(exit) => machine_ended(&engine, exit),
                Err(_) => SandboxExit::AgentLost {
                    reason: reason.to_string(),
                    console_tail: engine.vm.console_tail(),
                },
            }
        }
    };
    if engine.state() == SandboxState::Stopping {
        return; // that is how it should end
    }
    log::warn!(sandbox_id = engine.id.as_str(), reason:% = exit; "sandbox lost");
    engine.note_exit(exit);
    let (_, failures) = engine.site.lock().await.clear(StopMode::Kill).await;
    for failure in failures {
        log::warn!(sandbox_id = engine.id.as_str(), error:% = failure; "left behind");
    }
    engine.step(SandboxStep::Died);
}

fn machine_ended(engine: &Engine, exit: VmResult<VmExit>) -> SandboxExit {
    match exit {
        Ok(VmExit::PowerOff | VmExit::Reset) => SandboxExit::PowerOff,
        Ok(VmExit::Panic) => SandboxExit::GuestPanic {
            console_tail: engine.vm.console_tail(),
        },
        Ok(VmExit::Crashed { reason }) => SandboxExit::MonitorCrashed { reason },
        Ok(_) => SandboxExit::MonitorCrashed {
            reason: "it was killed".to_owned(),
        },
        Err(error) => SandboxExit::MonitorCrashed {
            reason: error.to_string(),
        },
    }
}

/// Tells listeners when the kernel kills for want of memory. An agent that does
/// not know of it ends this.
pub(super) async fn report_oom(engine: Arc<Engine>) {
    while let Ok(event) = engine
        .agent
        .calls()
        .get_oom_event(&GetOomEventRequest {}, None)
        .await
    {
        // The id is the guest's word: only containers that exist are told.
        let Some(record) = engine.containers.get(&event.container_id) else {
            continue;
        };
        record.note_oom();
        engine.events.send(&Event::Oom {
            sandbox: engine.id.clone(),
            container: event.container_id,
        });
    }
}
