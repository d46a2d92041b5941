//! Calls to the guest, as the engine makes them.

use std::sync::Arc;

use kata_protocol::ttrpc::CallError;
use tokio::sync::oneshot;

use super::Engine;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::state::SandboxState;

impl Engine {
    /// What to say of something in this sandbox.
    pub(crate) fn context(&self, operation: &'static str) -> Context {
        Context::new(operation, &*self.id)
    }

    /// What to say of one of its containers.
    pub(crate) fn container_context(&self, operation: &'static str, id: &str) -> Context {
        Context::new(operation, format!("{}/{}", self.id, crate::id::shown(id)))
    }

    /// Refuses what a sandbox cannot do in the state it is in.
    pub(crate) fn require_running(&self, context: &Context) -> Result<()> {
        match self.state() {
            SandboxState::Running => Ok(()),
            SandboxState::Lost => Err(self.gone(context)),
            state => {
                let error =
                    context.error(ErrorKind::InvalidState, format!("the sandbox is {state}"));
                Err(if state == SandboxState::Paused {
                    error.with_remedy("resume it first")
                } else {
                    error
                })
            }
        }
    }

    /// The error of what a sandbox can no longer do.
    pub(crate) fn gone(&self, context: &Context) -> Error {
        let exit = self.face.exit();
        let reason = exit.map_or_else(|| "the sandbox is gone".to_owned(), |exit| exit.to_string());
        context
            .error(ErrorKind::GuestLost, reason)
            .with_console(|| self.vm.console_tail())
    }

    /// Makes a call to the agent, of a sandbox that runs.
    pub(crate) async fn call<T>(
        &self,
        context: &Context,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T> {
        self.require_running(context)?;
        self.explain(context, call.await)
    }

    /// Adds to the error of a call what the sandbox knows of it.
    pub(crate) fn explain<T>(&self, context: &Context, answer: Result<T, CallError>) -> Result<T> {
        answer.map_err(|error| context.call(error).with_console(|| self.vm.console_tail()))
    }

    /// Carries out `work` to its end even if the caller stops waiting; then
    /// `undo` undoes it, since nobody has its result.
    pub(crate) async fn complete<T, W, U>(
        self: &Arc<Self>,
        context: &Context,
        work: W,
        undo: impl FnOnce(Arc<Self>, T) -> U + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
        U: Future<Output = ()> + Send,
    {
        let (sender, receiver) = oneshot::channel();
        let engine = Arc::clone(self);
        self.tasks.spawn(async move {
            if let Err(Ok(unwanted)) = sender.send(work.await) {
                undo(engine, unwanted).await;
            }
        });
        receiver.await.unwrap_or_else(|_| Err(self.gone(context)))
    }
}
