//! Standard streams over calls: for agents without a port for them.
//!
//! Kata's own agent may be one. Memory is bounded by a small buffer for each
//! stream, whoever stalls.

use std::future::Future;

use kata_protocol::agent::{CloseStdinRequest, ReadStreamRequest, WriteStreamRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::oneshot;

use super::Agent;
use crate::stdio::{Reader, Stdin};

/// Bytes on their way in either direction.
const BUFFER: usize = 64 * 1024;
/// Bytes that one call carries.
const CHUNK: u32 = 32 * 1024;

/// Makes streams of a process out of calls.
#[derive(Clone, Debug)]
pub(super) struct Puller {
    agent: Agent,
    container_id: String,
    exec_id: String,
}

#[derive(Clone, Copy, Debug)]
enum Output {
    Stdout,
    Stderr,
}

impl Puller {
    pub(super) fn new(agent: Agent, container: &str, exec_id: &str) -> Self {
        Self {
            agent,
            container_id: container.to_owned(),
            exec_id: exec_id.to_owned(),
        }
    }

    pub(super) fn stdin(&self) -> (Stdin, impl Future<Output = ()> + Send + use<>) {
        let (near, far) = tokio::io::duplex(BUFFER);
        (Stdin::new(near), self.clone().push(far))
    }

    pub(super) fn stdout(
        &self,
    ) -> (
        Reader,
        impl Future<Output = ()> + Send + use<>,
        oneshot::Receiver<()>,
    ) {
        self.output(Output::Stdout)
    }

    pub(super) fn stderr(
        &self,
    ) -> (
        Reader,
        impl Future<Output = ()> + Send + use<>,
        oneshot::Receiver<()>,
    ) {
        self.output(Output::Stderr)
    }

    fn output(
        &self,
        which: Output,
    ) -> (
        Reader,
        impl Future<Output = ()> + Send + use<>,
        oneshot::Receiver<()>,
    ) {
        let (near, far) = tokio::io::duplex(BUFFER);
        let (ended, end) = oneshot::channel();
        let puller = self.clone();
        let relay = async move {
            puller.pull(which, far).await;
            drop(ended);
        };
        (Reader::new(near), relay, end)
    }

    async fn push(self, mut from: DuplexStream) {
        let mut buffer = vec![0; CHUNK as usize];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if !self.write_all(&buffer[..count]).await {
                return; // the process reads no more
            }
        }
        let request = CloseStdinRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
        };
        if let Err(error) = self
            .agent
            .calls()
            .close_stdin(&request, self.agent.deadline())
            .await
        {
            log::debug!(container_id = self.container_id.as_str(), error:%; "cannot close stdin");
        }
    }

    async fn write_all(&self, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            let request = WriteStreamRequest {
                container_id: self.container_id.clone(),
                exec_id: self.exec_id.clone(),
                data: data.to_vec(),
            };
            let Ok(written) = self.agent.calls().write_stdin(&request, None).await else {
                return false;
            };
            // The count is the guest's word.
            match data.get(written.len as usize..) {
                Some(rest) if written.len > 0 => data = rest,
                _ => return false,
            }
        }
        true
    }

    /// Reads to the end, even when nobody listens: the process must not wait.
    async fn pull(self, which: Output, mut to: DuplexStream) {
        let request = ReadStreamRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            len: CHUNK,
        };
        let mut listens = true;
        loop {
            let calls = self.agent.calls();
            let answer = match which {
                Output::Stdout => calls.read_stdout(&request, None).await,
                Output::Stderr => calls.read_stderr(&request, None).await,
            };
            // Kata's agent answers the end of a stream with an error.
            let Ok(answer) = answer else { return };
            if answer.data.is_empty() {
                return;
            }
            listens = listens && to.write_all(&answer.data).await.is_ok();
        }
    }
}
