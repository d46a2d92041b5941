//! The answering side, for one thread: the agent has no other.

use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::frame::{self, Header, Kind};
use super::status::{Code, RequestEnvelope, ResponseEnvelope, Status};

/// Calls in flight on one connection; the next waits unread.
const CALLS: usize = 1024;

/// What answers calls.
#[async_trait(?Send)]
pub trait Handler {
    /// Answers `/service/method`, given the encoded request.
    async fn handle(&self, service: &str, method: &str, request: Bytes) -> Result<Vec<u8>, Status>;

    /// The same for a caller who waits no longer than `limit`, if there is one.
    /// What is left half done by giving up is the handler's to know: unless it
    /// says otherwise, a call is carried to its end.
    async fn handle_within(
        &self,
        service: &str,
        method: &str,
        request: Bytes,
        limit: Option<Duration>,
    ) -> Result<Vec<u8>, Status> {
        let _ = limit;
        self.handle(service, method, request).await
    }
}

/// Answers the calls that come on `stream`, each in a local task of its own,
/// until the peer closes it. Calls in flight are dropped then.
///
/// Must run within a [`tokio::task::LocalSet`].
///
/// # Errors
/// When the stream fails or carries what is no ttRPC.
pub async fn serve<S>(stream: S, handler: Rc<dyn Handler>) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + 'static,
{
    let (reader, mut writer) = tokio::io::split(stream);
    // One system call for the frames that have come, instead of three for each.
    let mut reader = BufReader::new(reader);
    let (answers, mut queue) = mpsc::channel::<(u32, Vec<u8>)>(16);
    let mut tasks = JoinSet::new();
    tasks.spawn_local(async move {
        while let Some((stream, payload)) = queue.recv().await {
            let header = Header {
                length: payload.len(),
                stream,
                kind: Kind::Response,
            };
            if frame::send(&mut writer, header, &payload).await.is_err() {
                break; // the reader sees the same end
            }
        }
    });
    while let Some((header, payload)) = frame::receive(&mut reader).await? {
        while tasks.try_join_next().is_some() {}
        if tasks.len() > CALLS {
            tasks.join_next().await;
        }
        let stream = header.stream;
        let answers = answers.clone();
        let handler = Rc::clone(&handler);
        tasks.spawn_local(async move {
            let result = match (header.kind, RequestEnvelope::decode(payload)) {
                (Kind::Request, Ok(call)) => {
                    let limit = u64::try_from(call.timeout_nano).ok().filter(|n| *n > 0);
                    let limit = limit.map(Duration::from_nanos);
                    handler
                        .handle_within(&call.service, &call.method, call.payload, limit)
                        .await
                }
                (Kind::Request, Err(error)) => {
                    Err(Status::new(Code::InvalidArgument, error.to_string()))
                }
                _ => Err(Status::new(
                    Code::InvalidArgument,
                    "streaming calls are not served",
                )),
            };
            let mut envelope = ResponseEnvelope::default();
            match result {
                Ok(payload) => envelope.payload = payload.into(),
                Err(status) => envelope.status = Some(status),
            }
            // A closed queue means the connection is gone, and with it the caller.
            drop(answers.send((stream, envelope.encode_to_vec())).await);
        });
    }
    Ok(())
}
