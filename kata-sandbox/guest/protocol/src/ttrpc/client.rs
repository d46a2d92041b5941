//! The calling side.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::frame::{self, Header, Kind};
use super::status::{Code, RequestEnvelope, ResponseEnvelope, Status};

/// Why a call has no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The agent answered that it failed.
    #[error("{method}: {status}")]
    Status {
        /// The method called.
        method: &'static str,
        /// The agent's answer.
        status: Status,
    },
    /// No answer came in time.
    #[error("{method} was not answered within {} ms", deadline.as_millis())]
    Timeout {
        /// The method called.
        method: &'static str,
        /// How long was waited.
        deadline: Duration,
    },
    /// The connection ended before the answer.
    #[error("{method}: the connection to the agent is gone: {reason}")]
    Disconnected {
        /// The method called.
        method: &'static str,
        /// What ended it.
        reason: Arc<str>,
    },
    /// What came is not the answer's message.
    #[error("{method}: the agent's answer is malformed")]
    Malformed {
        /// The method called.
        method: &'static str,
        /// What is wrong with it.
        source: prost::DecodeError,
    },
}

impl CallError {
    /// The agent's status code, if it answered.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Status { status, .. } => Some(status.code()),
            _ => None,
        }
    }
}

/// A connection to a peer that serves calls. Clones share the connection; it is
/// closed when the last is dropped.
#[derive(Clone, Debug)]
pub struct Client {
    connection: Arc<Connection>,
}

#[derive(Debug)]
struct Connection {
    requests: mpsc::Sender<(Header, Bytes)>,
    pending: Arc<Pending>,
    next_stream: AtomicU32,
    closed: watch::Receiver<Option<Arc<str>>>,
    tasks: [AbortHandle; 2],
}

type Answer = oneshot::Sender<Bytes>;

#[derive(Debug, Default)]
struct Pending(Mutex<HashMap<u32, Answer>>);

impl Pending {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Answer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a call whose future was dropped, so that its late answer is too.
struct Slot<'a> {
    pending: &'a Pending,
    stream: u32,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.pending.lock().remove(&self.stream);
    }
}

impl Client {
    /// Calls over `stream`, from tasks on the current tokio runtime.
    pub fn new<S>(stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (reader, mut writer) = tokio::io::split(stream);
        // One system call for the frames that have come, instead of three for each.
        let mut reader = BufReader::new(reader);
        let (requests, mut queue) = mpsc::channel::<(Header, Bytes)>(16);
        let pending = Arc::new(Pending::default());
        let (close, closed) = watch::channel(None);
        let close = Arc::new(close);

        let writer_closes = Arc::clone(&close);
        let write = tokio::spawn(async move {
            while let Some((header, payload)) = queue.recv().await {
                if let Err(error) = frame::send(&mut writer, header, &payload).await {
                    writer_closes.send_if_modified(|reason| first(reason, &error.to_string()));
                    break;
                }
            }
        });
        let answers = Arc::clone(&pending);
        let read = tokio::spawn(async move {
            let reason = loop {
                match frame::receive(&mut reader).await {
                    Ok(Some((header, payload))) if header.kind == Kind::Response => {
                        let waiting = answers.lock().remove(&header.stream);
                        if let Some(waiting) = waiting {
                            // The caller may have gone; its answer goes too.
                            drop(waiting.send(payload));
                        }
                    }
                    Ok(Some(_)) => break "the peer sent a frame that is no response".to_owned(),
                    Ok(None) => break "closed by the peer".to_owned(),
                    Err(error) => break error.to_string(),
                }
            };
            close.send_if_modified(|first_reason| first(first_reason, &reason));
            answers.lock().clear();
        });
        Self {
            connection: Arc::new(Connection {
                requests,
                pending,
                next_stream: AtomicU32::new(1),
                closed,
                tasks: [write.abort_handle(), read.abort_handle()],
            }),
        }
    }

    /// Calls `/service/method`, and waits for the answer until `deadline`, or
    /// without limit when it is `None`. Dropping the future forgets the call;
    /// the peer may still carry it out.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call<Q: Message, A: Message + Default>(
        &self,
        service: &'static str,
        method: &'static str,
        request: &Q,
        deadline: Option<Duration>,
    ) -> Result<A, CallError> {
        let answer = match deadline {
            None => self.exchange(service, method, request, 0).await?,
            Some(limit) => {
                let nanos = i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX);
                tokio::time::timeout(limit, self.exchange(service, method, request, nanos))
                    .await
                    .map_err(|_| CallError::Timeout {
                        method,
                        deadline: limit,
                    })??
            }
        };
        let malformed = |source| CallError::Malformed { method, source };
        let envelope = ResponseEnvelope::decode(answer).map_err(malformed)?;
        match envelope.status {
            Some(status) if status.code() != Code::Ok || status.code != 0 => {
                Err(CallError::Status { method, status })
            }
            _ => A::decode(envelope.payload).map_err(malformed),
        }
    }

    async fn exchange<Q: Message>(
        &self,
        service: &'static str,
        method: &'static str,
        request: &Q,
        timeout_nano: i64,
    ) -> Result<Bytes, CallError> {
        let envelope = RequestEnvelope {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: request.encode_to_vec().into(),
            timeout_nano,
        };
        let payload = Bytes::from(envelope.encode_to_vec());
        if payload.len() > frame::PAYLOAD_LIMIT {
            let message = format!("a request of {} bytes is over the limit", payload.len());
            let status = Status::new(Code::ResourceExhausted, message);
            return Err(CallError::Status { method, status });
        }
        let connection = &*self.connection;
        let gone = || CallError::Disconnected {
            method,
            reason: connection
                .closed
                .borrow()
                .clone()
                .unwrap_or_else(|| "closed".into()),
        };
        let stream = connection.next_stream.fetch_add(2, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        connection.pending.lock().insert(stream, answer);
        let _slot = Slot {
            pending: &connection.pending,
            stream,
        };
        // After the insertion: a reader that has ended clears what it finds.
        if connection.closed.borrow().is_some() {
            return Err(gone());
        }
        let header = Header {
            length: payload.len(),
            stream,
            kind: Kind::Request,
        };
        connection
            .requests
            .send((header, payload))
            .await
            .map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }

    /// Waits until the connection has ended, and says why.
    pub async fn closed(&self) -> Arc<str> {
        let mut closed = self.connection.closed.clone();
        match closed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_else(|| "closed".into()),
            Err(_) => "closed".into(),
        }
    }
}

fn first(reason: &mut Option<Arc<str>>, now: &str) -> bool {
    let changed = reason.is_none();
    reason.get_or_insert_with(|| now.into());
    changed
}

impl Drop for Connection {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
