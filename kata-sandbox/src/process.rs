//! A process in a container.

use std::fmt;
use std::sync::Arc;

use crate::engine::{ContainerRecord, Keeper, ProcessRecord, Streams};
use crate::error::Result;
use crate::exit::{Exit, Signal};
use crate::stdio::{PtySize, Reader, Stdin};

/// A process in a container, with its streams. Dropping it closes the streams
/// that were not taken; the process goes on.
pub struct Process {
    control: ProcessControl,
    streams: Streams,
}

/// What can be done with a process but for its streams. Clones are the same
/// process.
#[derive(Clone, Debug)]
pub struct ProcessControl {
    keeper: Arc<Keeper>,
    container: Arc<ContainerRecord>,
    process: Arc<ProcessRecord>,
}

impl Process {
    pub(crate) fn new(
        keeper: Arc<Keeper>,
        container: Arc<ContainerRecord>,
        process: Arc<ProcessRecord>,
        streams: Streams,
    ) -> Self {
        Self {
            control: ProcessControl {
                keeper,
                container,
                process,
            },
            streams,
        }
    }

    /// Its id in the guest; a foreign agent does not say.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.control.process.pid()
    }

    /// Its input, once, where it is piped or a terminal.
    pub fn take_stdin(&mut self) -> Option<Stdin> {
        self.streams.stdin.take()
    }

    /// Its output, once, where it is piped or a terminal. Not reading it holds
    /// the process up, and nothing else.
    pub fn take_stdout(&mut self) -> Option<Reader> {
        self.streams.stdout.take()
    }

    /// Its error output, once, where it is piped. A terminal has none apart.
    pub fn take_stderr(&mut self) -> Option<Reader> {
        self.streams.stderr.take()
    }

    /// What can be done with it while its streams are elsewhere.
    #[must_use]
    pub fn control(&self) -> ProcessControl {
        self.control.clone()
    }

    /// Signals it.
    ///
    /// # Errors
    /// As [`ProcessControl::kill`].
    pub async fn kill(&self, signal: Signal) -> Result<()> {
        self.control.kill(signal).await
    }

    /// Tells its terminal its size.
    ///
    /// # Errors
    /// As [`ProcessControl::resize`].
    pub async fn resize(&self, size: PtySize) -> Result<()> {
        self.control.resize(size).await
    }

    /// Waits until it has ended, and says how. Any number may wait, at any
    /// time; the status is never lost while its sandbox lives, and is
    /// [`Exit::Lost`] when that ends first.
    ///
    /// # Errors
    /// None today: how a workload ends is no error.
    pub async fn wait(&self) -> Result<Exit> {
        self.control.wait().await
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("container", &self.control.container.id())
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}

impl ProcessControl {
    /// Its id in the guest; a foreign agent does not say.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        self.process.exit()
    }

    /// Signals it.
    ///
    /// # Errors
    /// `InvalidConfig` when that is no signal, and what the agent says.
    pub async fn kill(&self, signal: Signal) -> Result<()> {
        let engine = self.keeper.engine();
        match self.process.exec_id() {
            "" => self.container.send_signal(engine, signal, false).await,
            exec_id => self.container.signal_process(engine, exec_id, signal).await,
        }
    }

    /// Kills it some time soon, if it has not ended.
    pub(crate) fn kill_unless_ended(&self) {
        if self.exit().is_none() {
            let (container, process) = (Arc::clone(&self.container), Arc::clone(&self.process));
            self.keeper.engine().kill_soon(container, process);
        }
    }

    /// Tells its terminal its size.
    ///
    /// # Errors
    /// `InvalidState` when it has no terminal.
    pub async fn resize(&self, size: PtySize) -> Result<()> {
        self.keeper
            .engine()
            .resize_terminal(&self.container, &self.process, size)
            .await
    }

    /// Waits until it has ended; see [`Process::wait`].
    ///
    /// # Errors
    /// None today.
    pub async fn wait(&self) -> Result<Exit> {
        Ok(self.process.exited().await)
    }
}
