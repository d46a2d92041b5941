//! The tasks of a sandbox: they end with it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// Tasks that are aborted together.
#[derive(Debug)]
pub(super) struct Tasks {
    /// `None` once they were aborted.
    running: Mutex<Option<Vec<AbortHandle>>>,
    runtime: Handle,
}

impl Default for Tasks {
    /// On the current runtime.
    fn default() -> Self {
        Self {
            running: Mutex::new(Some(Vec::new())),
            runtime: Handle::current(),
        }
    }
}

impl Tasks {
    fn lock(&self) -> MutexGuard<'_, Option<Vec<AbortHandle>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a task, unless all were aborted.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.lock();
        if let Some(tasks) = &mut *running {
            tasks.retain(|task| !task.is_finished());
            tasks.push(self.runtime.spawn(task).abort_handle());
        }
    }

    /// Ends them all, and refuses new ones.
    pub(super) fn abort_all(&self) {
        let tasks = self.lock().take();
        for task in tasks.iter().flatten() {
            task.abort();
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.abort_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_end_together_and_no_more_begin() {
        let tasks = Tasks::default();
        let (kept, end) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn(async move {
            std::future::pending::<()>().await;
            drop(kept);
        });
        tasks.abort_all();
        assert!(end.await.is_err());
        let (kept, end) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn(async move {
            let _ = kept.send(());
        });
        assert!(end.await.is_err());
    }
}
