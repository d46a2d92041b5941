//! A process in a container.

use std::fmt;
use std::sync::Arc;

use crate::engine::Streams;
use crate::error::Result;
use crate::exit::{Exit, Signal};
use crate::home::operation::{Recipient, ResizeTerminal, SendSignal};
use crate::home::{ContainerFace, Home, ProcessFace};
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
    home: Arc<Home>,
    container: Arc<ContainerFace>,
    process: Arc<ProcessFace>,
}

impl Process {
    pub(crate) fn new(
        home: Arc<Home>,
        container: Arc<ContainerFace>,
        process: Arc<ProcessFace>,
        streams: Streams,
    ) -> Self {
        Self {
            control: ProcessControl::new(home, container, process),
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
    pub(crate) fn new(
        home: Arc<Home>,
        container: Arc<ContainerFace>,
        process: Arc<ProcessFace>,
    ) -> Self {
        Self {
            home,
            container,
            process,
        }
    }

    /// The name under which [`Container::process`](crate::Container::process)
    /// finds it again; empty for a container's first process.
    #[must_use]
    pub fn exec_id(&self) -> &str {
        self.process.exec_id()
    }

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
        self.home.ask(self.signal(signal)).await
    }

    fn signal(&self, signal: Signal) -> SendSignal {
        let to = match self.process.exec_id() {
            "" => Recipient::First,
            exec_id => Recipient::Executed(exec_id.to_owned()),
        };
        SendSignal {
            container: self.container.key.clone(),
            to,
            signal,
        }
    }

    /// Kills it some time soon, if it has not ended.
    pub(crate) fn kill_unless_ended(&self) {
        if self.exit().is_none() {
            self.home.ask_soon(self.signal(Signal::KILL));
        }
    }

    /// Tells its terminal its size.
    ///
    /// # Errors
    /// `InvalidState` when it has no terminal.
    pub async fn resize(&self, size: PtySize) -> Result<()> {
        let resize = ResizeTerminal {
            container: self.container.key.clone(),
            exec_id: self.process.exec_id().to_owned(),
            terminal: self.process.terminal,
            size,
        };
        self.home.ask(resize).await
    }

    /// Waits until it has ended; see [`Process::wait`].
    ///
    /// # Errors
    /// None today.
    pub async fn wait(&self) -> Result<Exit> {
        Ok(self.process.exited().await)
    }
}
