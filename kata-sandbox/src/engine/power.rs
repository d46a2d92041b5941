//! Stopping, resuming and resizing of the machine.

use std::sync::Arc;

use kata_hypervisor::{MemorySize, Pause};

use super::Engine;
use crate::error::{Context, ErrorKind, Result};
use crate::state::SandboxStep;

impl Engine {
    /// Stops all its processors, or lets them run again.
    pub(crate) async fn set_paused(self: &Arc<Self>, paused: bool) -> Result<()> {
        let context = self.context(if paused {
            "pause sandbox"
        } else {
            "resume sandbox"
        });
        let (engine, own) = (Arc::clone(self), context.clone());
        let work = async move { engine.change_power(paused, &own).await };
        self.complete(&context, work, |_, ()| async {}).await
    }

    async fn change_power(&self, paused: bool, context: &Context) -> Result<()> {
        let _pausing = self.pausing.lock().await;
        let pause = self.pauser(context)?;
        let step = if paused {
            SandboxStep::Pause
        } else {
            SandboxStep::Resume
        };
        let state = self.state();
        if state.after(step).is_none() {
            let reason = format!("the sandbox is {state}");
            return Err(context.error(ErrorKind::InvalidState, reason));
        }
        let changed = if paused {
            pause.pause().await
        } else {
            pause.resume().await
        };
        changed.map_err(|error| context.vm(error))?;
        if self.step(step) {
            return Ok(());
        }
        // It is being stopped meanwhile, which a guest that stands still is not.
        let state = self.state();
        if paused {
            pause.resume().await.map_err(|error| context.vm(error))?;
        }
        Err(context.error(ErrorKind::InvalidState, format!("the sandbox is {state}")))
    }

    fn pauser(&self, context: &Context) -> Result<&dyn Pause> {
        self.vm.pause().ok_or_else(|| {
            let reason = "its hypervisor cannot pause machines";
            context.error(ErrorKind::Unsupported, reason)
        })
    }

    /// Brings it to that size, as near as the hypervisor can.
    pub(crate) async fn resize(
        self: &Arc<Self>,
        vcpus: u32,
        memory: MemorySize,
    ) -> Result<(u32, MemorySize)> {
        let context = self.context("resize sandbox");
        let (engine, own) = (Arc::clone(self), context.clone());
        let work = async move { engine.set_size((vcpus, memory), &own).await };
        self.complete(&context, work, |_, _| async {}).await
    }
}
