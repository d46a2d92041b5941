//! Ending a sandbox in good order.

use std::sync::Arc;
use std::time::Duration;

use kata_hypervisor::StopMode;
use kata_protocol::agent::DestroySandboxRequest;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{ContainerRecord, Engine};
use crate::error::{Error, ErrorKind, Failures, Result};
use crate::exit::{SandboxExit, Signal};
use crate::state::{SandboxState, SandboxStep};

/// How long killed containers may take to be collected.
const COLLECT: Duration = Duration::from_secs(5);
/// How long the guest may take to power itself off.
const POWER_OFF: Duration = Duration::from_secs(5);

impl Engine {
    /// Ends the sandbox: containers, guest, machine, network, journal. Goes on
    /// past what fails, and to the end even if nobody waits for it.
    pub(crate) async fn stop(self: &Arc<Self>, grace: Duration) -> Result<()> {
        let paused = self.state() == SandboxState::Paused;
        if !self.step(SandboxStep::Stop) {
            self.ended().await; // somebody else's stop, or the end
            return Ok(());
        }
        let (sender, receiver) = oneshot::channel();
        let engine = Arc::clone(self);
        self.tasks.spawn(async move {
            let failures = run(&engine, grace, paused).await;
            engine.note_exit(SandboxExit::Stopped);
            engine.step(SandboxStep::Ended);
            drop(sender.send(failures)); // nobody need wait
        });
        match receiver.await {
            Ok(failures) => self.report(failures),
            Err(_) => Err(self.gone(&self.context("stop sandbox"))),
        }
    }

    fn report(&self, mut failures: Vec<Error>) -> Result<()> {
        match failures.len() {
            0 => Ok(()),
            1 => Err(failures.swap_remove(0)),
            count => Err(self
                .context("stop sandbox")
                .error(ErrorKind::Internal, format!("{count} things failed"))
                .caused_by(Failures::new(failures))),
        }
    }

    /// Lets others have the id of a sandbox that has ended.
    pub(crate) async fn free_id(&self) -> Result<()> {
        self.site.lock().await.free_id()
    }
}

async fn run(engine: &Arc<Engine>, grace: Duration, paused: bool) -> Vec<Error> {
    let context = engine.context("stop sandbox");
    let mut failures = Vec::new();
    let pausing = engine.pausing.lock().await; // one under way ends first
    if paused
        && let Some(pause) = engine.vm.pause()
        && let Err(error) = pause.resume().await
    {
        failures.push(context.vm(error));
    }
    drop(pausing);
    end_containers(engine, grace).await;
    engine.reach("containers ended");
    let destroyed = engine
        .agent
        .calls()
        .destroy_sandbox(&DestroySandboxRequest {}, engine.agent.deadline())
        .await;
    // The guest may power off before its answer is through.
    let destroyed = match engine.explain(&context, destroyed) {
        Err(error) if error.kind() != ErrorKind::GuestLost => Err(error),
        _ => Ok(()),
    };
    let how = match destroyed {
        Ok(()) => StopMode::Await(POWER_OFF),
        Err(error) => {
            failures.push(error);
            StopMode::Kill
        }
    };
    let (_, left) = engine.site.lock().await.clear(how).await;
    failures.extend(left);
    log::info!(sandbox_id = engine.id.as_str(); "sandbox stopped");
    failures
}

/// Asks what runs to end, and after the grace kills it.
async fn end_containers(engine: &Arc<Engine>, grace: Duration) {
    let running: Vec<_> = engine
        .containers
        .all()
        .into_iter()
        .filter(|record| record.is_live())
        .collect();
    if running.is_empty() {
        return;
    }
    if !grace.is_zero() {
        let until = Instant::now() + grace;
        signal(engine, &running, Signal::TERM, false).await;
        if wait_until(&running, until).await {
            return;
        }
    }
    signal(engine, &running, Signal::KILL, true).await;
    wait_until(&running, Instant::now() + COLLECT).await;
}

async fn signal(engine: &Arc<Engine>, records: &[Arc<ContainerRecord>], signal: Signal, all: bool) {
    for record in records.iter().filter(|record| record.is_live()) {
        // What cannot be signalled ends with the guest, a moment later.
        if let Err(error) = record.send_signal(engine, signal, all).await {
            log::debug!(
                sandbox_id = engine.id.as_str(), container_id = record.id(), error:%;
                "cannot signal"
            );
        }
    }
}

/// Whether all have ended by then.
async fn wait_until(records: &[Arc<ContainerRecord>], until: Instant) -> bool {
    for record in records {
        if tokio::time::timeout_at(until, record.init().exited())
            .await
            .is_err()
        {
            return false;
        }
    }
    true
}
